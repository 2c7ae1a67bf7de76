//! [`IntLanes`] in plain Rust: the reference for the others, and the fallback for other processors.

use half::{bf16, f16};

use super::lanes::IntLanes;
use super::line::{Line, PerRow};
use crate::backend::cpu::packed::PANEL;

/// Lanes in arrays; LLVM vectorizes them for the target.
pub(crate) struct PlainInt;

/// Four codes per lane.
type Codes = [[u8; 4]; PANEL];

#[inline(always)]
fn codes(line: &Line, code: impl Fn(u8) -> u8) -> Codes {
    let mut codes = [[0; 4]; PANEL];
    for (codes, bytes) in codes.iter_mut().zip(line.as_chunks::<4>().0) {
        *codes = bytes.map(&code);
    }
    codes
}

#[inline(always)]
fn add(mut dot: PerRow<i32>, codes: Codes, inputs: i32) -> PerRow<i32> {
    let inputs = inputs.to_ne_bytes().map(|byte| i32::from(byte.cast_signed()));
    for (sum, codes) in dot.iter_mut().zip(codes) {
        for (code, input) in codes.into_iter().zip(inputs) {
            *sum += i32::from(code) * input;
        }
    }
    dot
}

#[inline(always)]
fn each<A: Copy, B: Copy>(a: PerRow<A>, b: PerRow<B>, f: impl Fn(A, B) -> f32) -> PerRow<f32> {
    let mut out = [0.0; PANEL];
    for (out, (a, b)) in out.iter_mut().zip(a.into_iter().zip(b)) {
        *out = f(a, b);
    }
    out
}

impl IntLanes for PlainInt {
    type Nibbles = Codes;
    type Bytes = Codes;
    type Dot = PerRow<i32>;
    type Floats = PerRow<f32>;

    #[inline(always)]
    fn nibbles(line: &Line) -> [Codes; 2] {
        [codes(line, |byte| byte & 15), codes(line, |byte| byte >> 4)]
    }
    #[inline(always)]
    fn bytes(line: &Line) -> Codes {
        codes(line, |byte| byte)
    }
    #[inline(always)]
    fn start(base: i32) -> PerRow<i32> {
        [base; PANEL]
    }
    #[inline(always)]
    fn add_nibbles(dot: PerRow<i32>, codes: Codes, inputs: i32) -> PerRow<i32> {
        add(dot, codes, inputs)
    }
    #[inline(always)]
    fn add_bytes(dot: PerRow<i32>, codes: Codes, inputs: i32) -> PerRow<i32> {
        add(dot, codes, inputs)
    }
    #[inline(always)]
    fn finish(dot: PerRow<i32>, _base: i32) -> PerRow<f32> {
        dot.map(|sum| sum as f32)
    }
    #[inline(always)]
    fn splat(value: f32) -> PerRow<f32> {
        [value; PANEL]
    }
    #[inline(always)]
    fn splat_integer(value: i32) -> PerRow<f32> {
        [value as f32; PANEL]
    }
    #[inline(always)]
    fn floats(values: &PerRow<f32>) -> PerRow<f32> {
        *values
    }
    #[inline(always)]
    fn floats_of_f16(bits: &PerRow<u16>) -> PerRow<f32> {
        bits.map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    fn floats_of_bf16(bits: &PerRow<u16>) -> PerRow<f32> {
        bits.map(|bits| bf16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    fn floats_of_i8(values: &PerRow<i8>) -> PerRow<f32> {
        values.map(f32::from)
    }
    #[inline(always)]
    fn floats_of_u8(values: &PerRow<u8>) -> PerRow<f32> {
        values.map(f32::from)
    }
    #[inline(always)]
    fn mul(a: PerRow<f32>, b: PerRow<f32>) -> PerRow<f32> {
        each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn add(a: PerRow<f32>, b: PerRow<f32>) -> PerRow<f32> {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(a: PerRow<f32>, b: PerRow<f32>) -> PerRow<f32> {
        each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn store(values: PerRow<f32>) -> PerRow<f32> {
        values
    }
}
