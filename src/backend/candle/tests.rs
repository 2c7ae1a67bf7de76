//! The conformance suite in each type, and the gradients.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::backend::tests::{Tolerance, conformance};

fn cpu(dtype: DType) -> Candle {
    Candle::new(Device::Cpu, dtype).unwrap()
}

#[test]
fn computes_what_the_reference_does() {
    let all = |tolerance| Tolerance { dense: tolerance, quantized: tolerance, other: tolerance };
    conformance(&cpu(DType::F32), all(2e-5));
    conformance(&cpu(DType::F16), all(1e-2));
    conformance(&cpu(DType::BF16), all(8e-2));
}
