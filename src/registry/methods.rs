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
    prune::depth::DEF,
    prune::width::DEF,
    prune::experts::DEF,
    prune::vocabulary::DEF,
    prune::size::DEF,
    prune::magnitude::DEF,
    prune::wanda::DEF,
    prune::ria::DEF,
    prune::sparsegpt::DEF,
    prune::alps::DEF,
];

/// The names of the methods that set weights to zero.
pub fn pruning() -> Vec<&'static str> {
    names(|stage| matches!(stage, Stage::Prune(_)))
}

/// The names of the methods that make a model smaller.
pub fn shaping() -> Vec<&'static str> {
    names(|stage| matches!(stage, Stage::Shape(_)))
}

/// The names of the methods of a kind.
fn names(is_of_kind: fn(&Stage) -> bool) -> Vec<&'static str> {
    let of_kind = |def: &&Def| (def.build)(&toml::Table::new()).is_ok_and(|stage| is_of_kind(&stage));
    METHODS.iter().filter(of_kind).map(|def| def.name).collect()
}
