//! The list of methods.

use crate::stage::{Def, Stage};
use crate::{prune, quant};

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
    prune::magnitude::DEF,
    prune::wanda::DEF,
    prune::ria::DEF,
    prune::sparsegpt::DEF,
    prune::alps::DEF,
];

/// The names of the methods that set weights to zero.
pub fn pruning() -> Vec<&'static str> {
    let prunes = |def: &&Def| matches!((def.build)(&toml::Table::new()), Ok(Stage::Prune(_)));
    METHODS.iter().filter(prunes).map(|def| def.name).collect()
}
