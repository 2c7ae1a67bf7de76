//! Packed weights in layouts that llmc does not read. Their tensors tell the tool; they are refused by its name before any work,
//! since integers would otherwise pass as weights to leave alone.

use std::collections::HashSet;

use indexmap::IndexMap;

use crate::io::source::RawTensor;
use crate::tensor::DType;

/// Joins a weight and the name of bitsandbytes' state of it.
const STATE: &str = ".quant_state.";

/// Returns the first tensor of packed weights that no family of layouts reads, with the tool that packed it.
pub(super) fn find(raw: &IndexMap<String, RawTensor>) -> Option<String> {
    let states: HashSet<&str> = raw.keys().filter_map(|name| Some(name.split_once(STATE)?.0)).collect();
    let found = raw.values().find_map(|tensor| Some((tensor, tool(tensor, raw, &states)?)));
    found.map(|(tensor, tool)| format!("{}: packed by {tool}, which llmc does not read", tensor.name))
}

/// The tool whose packed weights a tensor belongs to. `states` are the weights that have a state of bitsandbytes.
fn tool(
    tensor: &RawTensor,
    raw: &IndexMap<String, RawTensor>,
    states: &HashSet<&str>,
) -> Option<&'static str> {
    let (module, last) = tensor.name.rsplit_once('.')?;
    let beside = |role: &str| raw.contains_key(&format!("{module}.{role}"));
    match (last, tensor.dtype) {
        ("weight", DType::U32) if beside("scales") => Some("MLX"),
        ("weight", DType::I8) if beside("SCB") => Some("bitsandbytes in 8 bits"),
        ("weight", DType::U8) if beside("weight.absmax") || states.contains(tensor.name.as_str()) => {
            Some("bitsandbytes in 4 bits")
        }
        ("pre_quant_scale", _) => Some("ModelOpt with scales of inputs (AWQ, SmoothQuant)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tensors: &[(&str, DType)], expected: Option<&str>) {
        let tensor = |&(name, dtype): &(&str, DType)| {
            let raw = RawTensor { name: name.into(), dtype, shape: vec![8, 8], file: 0, range: 0..0 };
            (name.to_owned(), raw)
        };
        let raw: IndexMap<String, RawTensor> = tensors.iter().map(tensor).collect();
        let found = find(&raw);
        match (&found, expected) {
            (Some(found), Some(tool)) => assert!(found.contains(&format!("packed by {tool},")), "{found}"),
            _ => assert!(found.is_none() && expected.is_none(), "{tensors:?}: {found:?}"),
        }
    }

    #[test]
    fn tools_are_told_by_their_tensors() {
        check(&[("a.weight", DType::U32), ("a.scales", DType::F16), ("a.biases", DType::F16)], Some("MLX"));
        check(&[("a.weight", DType::I8), ("a.SCB", DType::F32)], Some("bitsandbytes in 8 bits"));
        check(&[("a.weight", DType::U8), ("a.weight.absmax", DType::F32)], Some("bitsandbytes in 4 bits"));
        let state = "a.weight.quant_state.bitsandbytes__nf4";
        check(&[("a.weight", DType::U8), (state, DType::U8)], Some("bitsandbytes in 4 bits"));
        let scaled = [("a.weight", DType::U8), ("a.pre_quant_scale", DType::F32)];
        check(&scaled, Some("ModelOpt with scales of inputs (AWQ, SmoothQuant)"));
        check(&[("a.weight", DType::BF16), ("a.scales", DType::F16)], None);
        check(&[("position_ids", DType::I64)], None);
    }
}
