//! The k-quants, Q2_K to Q6_K: super-blocks of 256 values, cut into sub-blocks of 16 or 32 whose scales are integers too.
//!
//! Each type is a file: its layout, and the parameters of its search. [`affine`] searches x ≈ scale·code − min (Q2_K, Q4_K,
//! Q5_K), [`signed`] searches x ≈ scale·code (Q3_K, Q6_K); both run over [`lanes`](super::lanes), eight sub-blocks side by
//! side.
//!
//! The errors minimized are llama.cpp's, the search is our own, so the bytes differ from llama.cpp's; any reader of the format
//! reads them. The search, for each super-block:
//!
//! 1. scale it by a power of two into [1, 2) and weigh its elements ([`weights`]);
//! 2. fit each sub-block: codes from a few candidate steps, then scale and min by weighted least squares; the best wins;
//! 3. choose the super-block's f16 scales, then for each sub-block the integer scale near its fit whose codes err least;
//! 4. solve for the f16 scales again by least squares over all codes; 3 and 4 may repeat; then round the final codes.
//!
//! Finite input gives finite blocks: scales saturate at f16's largest value (Q2_K has the smallest range, and clips values
//! beyond about 10⁶), and values too small for f16's subnormals become zero. NaN and infinities are refused by `io`; here
//! they would give unspecified values, never a panic.

mod affine;
mod half_scale;
mod layout;
mod q2_k;
mod q3_k;
mod q4_k;
mod q5_k;
mod q6_k;
mod quarters;
mod signed;
mod six_bits;
mod super_block;
#[cfg(test)]
mod tests;
mod weights;

pub(crate) use q2_k::Q2K;
pub(crate) use q3_k::Q3K;
pub(crate) use q4_k::Q4K;
pub(crate) use q5_k::Q5K;
pub(crate) use q6_k::Q6K;
