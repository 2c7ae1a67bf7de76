//! The operations that a kernel needs from an instruction set: sixteen lanes, one per row of a panel, of integers and
//! of f32.
//!
//! Sums of products are exact in all of them. Products and sums of f32 are rounded one by one (never fused), so that
//! every instruction set gives the same bits.

use super::line::{Line, PerRow};

/// Operations on sixteen lanes.
///
/// Implementations are `inline(always)`: they are compiled with the target features of the function that they are
/// inlined into; the program enters it only if the processor has them.
pub(crate) trait IntLanes {
    /// Half of a line of nibbles: four columns in the low halves, or in the high halves.
    type Nibbles: Copy;
    /// A line of bytes.
    type Bytes: Copy;
    /// Sums Σ code·input over the columns of a step so far.
    type Dot: Copy;
    /// An f32 per lane.
    type Floats: Copy;

    /// Returns the two halves of a line of nibbles.
    fn nibbles(line: &Line) -> [Self::Nibbles; 2];
    /// Returns a line of bytes.
    fn bytes(line: &Line) -> Self::Bytes;

    /// Creates sums that begin with `base`. The base is passed again at the end, so that an implementation may add it
    /// there.
    fn start(base: i32) -> Self::Dot;
    /// Adds the products with four inputs, the bytes of `inputs` in memory order. Takes at most 32 columns in total.
    fn add_nibbles(dot: Self::Dot, codes: Self::Nibbles, inputs: i32) -> Self::Dot;
    /// Adds the products with four inputs, for a line of bytes.
    fn add_bytes(dot: Self::Dot, codes: Self::Bytes, inputs: i32) -> Self::Dot;
    /// Returns the sums; all are below 2^24 in magnitude and so exact.
    fn finish(dot: Self::Dot, base: i32) -> Self::Floats;

    /// Returns one value in every lane.
    fn splat(value: f32) -> Self::Floats;
    /// Returns one integer, below 2^24 in magnitude, in every lane.
    fn splat_integer(value: i32) -> Self::Floats;
    /// Loads f32 values.
    fn floats(values: &PerRow<f32>) -> Self::Floats;
    /// Loads bit patterns of f16.
    fn floats_of_f16(bits: &PerRow<u16>) -> Self::Floats;
    /// Loads bit patterns of bfloat16.
    fn floats_of_bf16(bits: &PerRow<u16>) -> Self::Floats;
    /// Loads signed bytes.
    fn floats_of_i8(values: &PerRow<i8>) -> Self::Floats;
    /// Loads unsigned bytes.
    fn floats_of_u8(values: &PerRow<u8>) -> Self::Floats;
    /// Returns a·b.
    fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Returns a + b.
    fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Returns a − b.
    fn sub(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Returns the lanes as an array.
    fn store(values: Self::Floats) -> PerRow<f32>;
}
