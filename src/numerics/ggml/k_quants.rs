//! Q2_K to Q6_K: super-blocks of 256.

/// To be.
pub(super) mod q2_k {
    pub fn quantize_row(_x: &[f32], _importance: Option<&[f32]>, _out: &mut [u8]) {
        todo!()
    }
    pub fn dequantize_row(_bytes: &[u8], _out: &mut [f32]) {
        todo!()
    }
}
/// To be.
pub(super) mod q3_k {
    pub fn quantize_row(_x: &[f32], _importance: Option<&[f32]>, _out: &mut [u8]) {
        todo!()
    }
    pub fn dequantize_row(_bytes: &[u8], _out: &mut [f32]) {
        todo!()
    }
}
/// To be.
pub(super) mod q4_k {
    pub fn quantize_row(_x: &[f32], _importance: Option<&[f32]>, _out: &mut [u8]) {
        todo!()
    }
    pub fn dequantize_row(_bytes: &[u8], _out: &mut [f32]) {
        todo!()
    }
}
/// To be.
pub(super) mod q5_k {
    pub fn quantize_row(_x: &[f32], _importance: Option<&[f32]>, _out: &mut [u8]) {
        todo!()
    }
    pub fn dequantize_row(_bytes: &[u8], _out: &mut [f32]) {
        todo!()
    }
}
/// To be.
pub(super) mod q6_k {
    pub fn quantize_row(_x: &[f32], _importance: Option<&[f32]>, _out: &mut [u8]) {
        todo!()
    }
    pub fn dequantize_row(_bytes: &[u8], _out: &mut [f32]) {
        todo!()
    }
}
