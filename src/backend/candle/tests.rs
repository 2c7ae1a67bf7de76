//! The conformance suite in each type, the gradients, and the errors.
#![allow(clippy::unwrap_used)]

mod cpu_ops;
mod gradients;

use super::*;
use crate::backend::tests::{Tolerance, conformance, dense, values};
use candle_core::Tensor;

use crate::backend::{Backend, Span};
use crate::error::{Error, Result};
use crate::tensor::DType;

fn cpu(dtype: DType) -> Candle {
    Candle::new(Device::Cpu, dtype).unwrap()
}

fn all(tolerance: f32) -> Tolerance {
    Tolerance { dense: tolerance, quantized: tolerance, other: tolerance }
}

#[test]
fn computes_what_the_reference_does() {
    conformance(&cpu(DType::F32), all(2e-5));
    conformance(&cpu(DType::F16), all(1e-2));
    conformance(&cpu(DType::BF16), all(8e-2));
}

#[test]
#[ignore = "needs a GPU, and the feature candle-cuda"]
fn computes_on_a_gpu_what_the_reference_does() {
    for (dtype, tolerance) in [(DType::F32, 2e-5), (DType::BF16, 8e-2)] {
        conformance(&Candle::new(Device::Cuda(0), dtype).unwrap(), all(tolerance));
    }
}

#[test]
fn what_it_cannot_do_is_an_error_with_a_hint() {
    let hint = |error: Error| error.hint().unwrap_or_default().to_owned();
    assert!(hint(Candle::new(Device::Cpu, DType::I8).unwrap_err()).contains("BF16"));
    let backend = cpu(DType::F32);
    let table = backend.load_table(dense(values(3, 2, 1))).unwrap();
    let error = backend.embed(&table, &[0, 3]).unwrap_err();
    assert!(error.to_string().contains("token 3"), "{error}");
    let full = candle_core::Error::Cuda("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into());
    assert!(hint(Error::device(full.bt())).contains("memory is full"));
}

#[test]
#[cfg(not(feature = "candle-cuda"))]
fn a_gpu_needs_the_feature() {
    let error = Candle::new(Device::Cuda(0), DType::F32).unwrap_err();
    assert!(
        error.to_string().contains("candle-cuda") && error.hint().unwrap().contains("build_candle"),
        "{error}"
    );
}

#[test]
fn a_large_matrix_is_read_by_ranges() {
    let all = values(300, 4999, 1); // more than a range, whose rows do not divide it
    let table = cpu(DType::BF16).load_table(dense(all.clone())).unwrap();
    let read = cpu(DType::BF16).read(table.weight(), <[f32]>::to_vec).unwrap();
    assert!(read.iter().eq(all.iter()));
}

#[test]
fn spans_of_one_length_are_taken_together_while_their_scores_fit() {
    let spans = [2, 2, 2, 0, 3, 3, 2].map(|len| Span { slot: 0, past: 0, len });
    let lens = |heads, cached| -> Vec<usize> {
        attention::runs(&spans, heads, cached).map(|run| run.len()).collect()
    };
    assert_eq!(lens(4, false), [3, 2, 1]);
    assert_eq!(lens(4, true), [1; 6]);
    assert_eq!(lens(1 << 30, false), [1; 6]);
}
