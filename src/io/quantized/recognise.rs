//! Groups the stored tensors of a checkpoint into logical ones, and reads their codes.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value;

use super::config::Config;
use super::module::{Module, tensor_name};
use super::read::CodeReader;
use super::{bitmask, experts, foreign, layouts, words};
use crate::error::{Error, Result};
use crate::io::map::MappedFile;
use crate::io::source::{RawTensor, Source, Stored};
use crate::numerics::QTensor;
use crate::tensor::DType;

/// A family of layouts that the same tensor announces: the roles its parts may have, and what makes a source of them.
struct Family {
    roles: &'static [&'static str],
    source: fn(Module) -> Result<Source>,
}

/// Scales of activations travel with the codes: they mean nothing once those are dequantized.
const PACKED: Family = Family {
    roles: &[
        "weight_packed",
        "weight_scale",
        "weight_zero_point",
        "weight_shape",
        "weight_g_idx",
        "input_scale",
        "input_global_scale",
    ],
    source: layouts::packed,
};
const FP4: Family = Family {
    roles: &["weight_packed", "weight_scale", "weight_global_scale", "input_global_scale"],
    source: layouts::fp4,
};
const MODELOPT: Family =
    Family { roles: &["weight", "weight_scale", "weight_scale_2", "input_scale"], source: layouts::modelopt };
const EXPERTS: Family = Family { roles: &[], source: experts::source };
const INT8: Family = Family {
    roles: &["weight", "weight_scale", "weight_zero_point", "input_scale", "input_zero_point"],
    source: layouts::plain,
};
const FP8: Family =
    Family { roles: &["weight", "weight_scale", "weight_scale_inv", "input_scale"], source: layouts::plain };
const TRANSPOSED: Family =
    Family { roles: &["qweight", "qzeros", "scales", "g_idx"], source: layouts::transposed };

/// A dense weight without its zeros.
const SPARSE: Family = Family { roles: &bitmask::ROLES, source: bitmask::floats };
/// An int- or float-quantized weight without its zeros.
const SPARSE_CODES: Family = Family {
    roles: &[
        "compressed",
        "bitmask",
        "shape",
        "row_offsets",
        "weight_scale",
        "weight_zero_point",
        "input_scale",
        "input_zero_point",
    ],
    source: bitmask::codes,
};

/// Parts that nothing but a quantized weight has: without it, a shard is missing.
const NEVER_ALONE: [&str; 6] = [
    "qzeros",
    "weight_shape",
    "weight_zero_point",
    "weight_global_scale",
    "weight_scale_inv",
    "weight_scale_2",
];

/// Scales of what attention caches, in a module of their own or beside the projections.
const CACHED: [&str; 4] = ["k_scale", "v_scale", "q_scale", "kv_scale"];
/// Scales of what linears read.
const INPUT: &str = "input_scale";

/// A recognised checkpoint.
pub(crate) struct Recognised {
    /// Logical tensors, quantized ones under `<module>.weight`.
    pub tensors: IndexMap<String, Source>,
    /// See [`Checkpoint::activation_scales`](crate::io::Checkpoint::activation_scales).
    pub activation_scales: BTreeMap<String, RawTensor>,
    /// In words, how it was quantized; `None` where it was not.
    pub quantization: Option<String>,
    /// See [`Checkpoint::packed`](crate::io::Checkpoint::packed).
    pub packed: Option<String>,
}

/// Groups a safetensors checkpoint's tensors into logical sources. `path` is what was opened; `files` are the maps `raw` points into
/// (`weight_shape` holds numbers that the headers do not).
pub(crate) fn recognise(
    mut raw: IndexMap<String, RawTensor>,
    config: Option<&Value>,
    path: &Path,
    files: &[MappedFile],
) -> Result<Recognised> {
    let config = Config::parse(config, path)?;
    let activation_scales = activation_scales(&mut raw, &config);
    let mut families: HashMap<&str, &Family> =
        raw.values().filter_map(|tensor| Some((split(&tensor.name).0, family(tensor, &raw)?))).collect();
    families.extend(raw.values().filter_map(|tensor| Some((experts::part(tensor, &raw)?.0, &EXPERTS))));
    let mut modules = HashMap::new();
    for tensor in raw.values() {
        if let Some((module, role)) = part_of(tensor, &raw, &families) {
            let empty = || Module { name: module, parts: Default::default(), files, config: &config };
            modules.entry(module).or_insert_with(empty).parts.insert(role, tensor.clone());
        } else {
            refuse_orphan(tensor, &raw, files)?;
        }
    }
    let mut sources = IndexMap::with_capacity(raw.len());
    for tensor in raw.values() {
        let source = match part_of(tensor, &raw, &families) {
            None => Source::dense(tensor.clone()),
            Some((name, _)) => match modules.remove(name) {
                Some(module) => (families[name].source)(module)?,
                None => continue,
            },
        };
        insert(&mut sources, source, tensor, files)?;
    }
    let quantization = words::describe(&config, sources.values());
    Ok(Recognised { tensors: sources, activation_scales, quantization, packed: foreign::find(&raw) })
}

/// Takes the scales of caches out of a quantized checkpoint's tensors, and notes those of inputs, which stay beside the
/// codes of their linear.
fn activation_scales(raw: &mut IndexMap<String, RawTensor>, config: &Config) -> BTreeMap<String, RawTensor> {
    let mut scales = BTreeMap::new();
    if config.method.is_some() {
        raw.retain(|name, tensor| {
            let (_, last) = split(name);
            let cached = CACHED.contains(&last);
            if cached || last == INPUT {
                scales.insert(name.clone(), tensor.clone());
            }
            !cached
        });
    }
    scales
}

/// A tensor's module and the last part of its name.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

/// The family that this tensor announces, if it does.
fn family(tensor: &RawTensor, raw: &IndexMap<String, RawTensor>) -> Option<&'static Family> {
    let beside = |role: &str| raw.contains_key(&format!("{}{role}", tensor.name));
    let (module, last) = split(&tensor.name);
    match (last, tensor.dtype) {
        (role, _) if bitmask::REQUIRED.contains(&role) => sparse(module, raw),
        ("weight_packed", DType::U8) => Some(&FP4),
        ("weight_packed", _) => Some(&PACKED),
        ("qweight", _) => Some(&TRANSPOSED),
        ("weight", DType::U8) if beside("_scale") && beside("_scale_2") => Some(&MODELOPT),
        ("weight", DType::I8) if beside("_scale") => Some(&INT8),
        ("weight", DType::F8E4M3 | DType::F8E5M2) if beside("_scale") || beside("_scale_inv") => Some(&FP8),
        _ => None,
    }
}

/// The family of a module's weight without zeros. Two of the parts announce it, so that a missing third one is named.
fn sparse(module: &str, raw: &IndexMap<String, RawTensor>) -> Option<&'static Family> {
    let part = |role: &str| raw.get(&tensor_name(module, role));
    let announced = bitmask::REQUIRED.iter().filter(|role| part(role).is_some()).count() > 1;
    let is_code = |values: &RawTensor| matches!(values.dtype, DType::I8 | DType::F8E4M3 | DType::F8E5M2);
    let has_codes = part(bitmask::VALUES).is_some_and(is_code);
    announced.then_some(if has_codes { &SPARSE_CODES } else { &SPARSE })
}

/// The module and role of a tensor that is part of a quantized weight.
fn part_of<'a>(
    tensor: &'a RawTensor,
    raw: &IndexMap<String, RawTensor>,
    families: &HashMap<&str, &Family>,
) -> Option<(&'a str, &'static str)> {
    let role = || {
        let (module, last) = split(&tensor.name);
        let roles = families.get(module)?.roles;
        roles.iter().find(|&&role| role == last).map(|&role| (module, role))
    };
    experts::part(tensor, raw).or_else(role)
}

/// A part whose weight is not there, or scales of a tensor that llmc would otherwise take for unscaled FP8.
fn refuse_orphan(tensor: &RawTensor, raw: &IndexMap<String, RawTensor>, files: &[MappedFile]) -> Result<()> {
    let file = files[tensor.file].path();
    let (module, last) = split(&tensor.name);
    if NEVER_ALONE.contains(&last) && !raw.contains_key(&tensor_name(module, "weight")) {
        let hint =
            "open the folder rather than one of its shards; if it is whole, fetch the checkpoint again";
        return Err(Error::malformed_tensor(
            file,
            &tensor.name,
            "the codes it belongs to beside it",
            "none",
            hint,
        ));
    }
    let scales = ["_scale_inv", "_scale"].iter().find_map(|end| raw.get(tensor.name.strip_suffix(end)?));
    match scales {
        Some(scaled) if matches!(scaled.dtype, DType::F8E4M3 | DType::F8E5M2) => Err(Error::unsupported(
            format!(
                "{}: {}: FP8 with scales in {}, a layout llmc does not read",
                file.display(),
                scaled.name,
                tensor.name
            ),
            "start from the model's 16-bit checkpoint",
        )),
        _ => Ok(()),
    }
}

fn insert(
    sources: &mut IndexMap<String, Source>,
    source: Source,
    tensor: &RawTensor,
    files: &[MappedFile],
) -> Result<()> {
    match sources.insert(source.name.clone(), source) {
        None => Ok(()),
        Some(twice) => Err(Error::malformed_tensor(
            files[tensor.file].path(),
            &twice.name,
            "one set of values",
            "both a dense weight and a quantized one",
            "remove the one that the model does not use",
        )),
    }
}

/// Reads rows of a quantized tensor: see [`Checkpoint::read_codes`](crate::io::Checkpoint::read_codes). Rows may begin and end anywhere: packing along
/// rows is dealt with here. Where they begin within a block of a scheme by blocks, the block's scales are spelled out for
/// each row, and the scheme returned is by groups of the block's columns.
pub(crate) fn read(files: &[MappedFile], source: &Source, rows: Range<usize>) -> Result<QTensor> {
    let Stored::Quantized { layout, scheme, parts } = &source.stored else {
        return Err(Error::unsupported(
            format!("{}: stored dense, without codes", source.name),
            "read its rows as values",
        ));
    };
    let cols = source.shape.last().copied().unwrap_or(0);
    let rows = rows.start + source.first_row..rows.end + source.first_row;
    CodeReader { files, layout: *layout, scheme: *scheme, parts, rows, cols }.read()
}
