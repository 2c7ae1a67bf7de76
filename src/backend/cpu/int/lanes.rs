//! What a kernel needs of an instruction set: sixteen lanes, one per row of a panel, of integers and of f32.
//!
//! Sums of products are exact in all of them, and products and sums of f32 are rounded one by one (never fused), so that
//! every instruction set gives the same bits.

use super::layout::{Line, PerRow};

/// Sixteen lanes.
///
/// Implementations are `inline(always)`: they take on the target features of the function that they end up in, which is
/// entered only where the processor has them.
pub trait Lanes {
    /// A line of nibbles: four columns in the low halves, or in the high halves.
    type Nibbles: Copy;
    /// A line of bytes.
    type Bytes: Copy;
    /// Σ code·input over the columns of a step so far.
    type Dot: Copy;
    /// An f32 per lane.
    type Floats: Copy;

    /// The two halves of a line of nibbles.
    fn nibbles(line: &Line) -> [Self::Nibbles; 2];
    /// A line of bytes.
    fn bytes(line: &Line) -> Self::Bytes;

    /// Sums that begin with `base`. Given again at the end, so that an implementation may add it there.
    fn start(base: i32) -> Self::Dot;
    /// Adds the products with four inputs, the bytes of `inputs` in memory order. At most 32 columns are added up.
    fn add_nibbles(dot: Self::Dot, codes: Self::Nibbles, inputs: i32) -> Self::Dot;
    /// The same.
    fn add_bytes(dot: Self::Dot, codes: Self::Bytes, inputs: i32) -> Self::Dot;
    /// The sums, all below 2^24 in magnitude and so exact.
    fn finish(dot: Self::Dot, base: i32) -> Self::Floats;

    /// One value in every lane.
    fn splat(value: f32) -> Self::Floats;
    /// One integer, below 2^24 in magnitude, in every lane.
    fn splat_integer(value: i32) -> Self::Floats;
    /// Loads.
    fn floats(values: &PerRow<f32>) -> Self::Floats;
    /// From the bit patterns of f16.
    fn floats_of_f16(bits: &PerRow<u16>) -> Self::Floats;
    /// From the bit patterns of bfloat16.
    fn floats_of_bf16(bits: &PerRow<u16>) -> Self::Floats;
    /// Converts.
    fn floats_of_i8(values: &PerRow<i8>) -> Self::Floats;
    /// Converts.
    fn floats_of_u8(values: &PerRow<u8>) -> Self::Floats;
    /// a·b.
    fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a + b.
    fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a − b.
    fn sub(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Stores.
    fn store(values: Self::Floats) -> PerRow<f32>;
}
