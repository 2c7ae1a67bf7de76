//! The list of methods.

use crate::quant;
use crate::stage::Def;

/// Every method, in the order `--help` lists them. The CLI's choices, recipe validation and the conformance tests
/// iterate this list.
pub const METHODS: &[Def] = &[
    quant::rtn::DEF,
    quant::mse::DEF,
    quant::hqq::DEF,
    quant::gptq::DEF,
    quant::awq::DEF,
    quant::awq::SCALE,
    quant::smoothquant::DEF,
    quant::rotate::DEF,
    quant::autoround::DEF,
    quant::eora::DEF,
    quant::eora::LORC,
];
