//! The `quantization_config`, read as hostile: wrong types and absurd values are errors that name the key.
//!
//! The tensors decide what is quantized; the configuration only settles what shapes leave open: the group size where the
//! last group is short, bits where a row is tiny, how GPTQ stores its zero points.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::numerics::Granularity;

/// The settings of one group of modules. `None`: the configuration is silent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Claim {
    /// Bits per code.
    pub bits: Option<u8>,
    /// Without zero points.
    pub symmetric: Option<bool>,
    /// The weights that share a scale.
    pub granularity: Option<Granularity>,
}

/// The parts of `quantization_config` that readers need.
#[derive(Debug, Default)]
pub(super) struct Config {
    /// The file that it was read from.
    pub file: PathBuf,
    /// `quant_method`, lower case.
    pub method: Option<String>,
    /// One per config group; one for the methods that treat all modules alike.
    pub claims: Vec<Claim>,
    /// True if modules may differ from the claims (GPTQModel's `dynamic`).
    pub overridden: bool,
    /// compressed-tensors: no weights are quantized; it tells of their zeros, or of what attention caches.
    pub dense: bool,
    /// GPTQ: zero points as they are rather than minus one.
    pub gptq_v2: bool,
}

/// `quant_method`s that are read. Others are refused by name.
const READ: [&str; 8] =
    ["compressed-tensors", "gptq", "awq", "auto-round", "fp8", "fbgemm_fp8", "modelopt", "mxfp4"];

impl Config {
    /// Reads config.json's `quantization_config` (or compressed-tensors' older `compression_config`). Without one: silent.
    pub(crate) fn parse(config: Option<&Value>, path: &Path) -> Result<Config> {
        let file = if path.is_dir() { path.join("config.json") } else { path.with_file_name("config.json") };
        let Some(value) = config.and_then(section) else {
            return Ok(Config { file, ..Config::default() });
        };
        let keys = Keys::of(value, "quantization_config", &file)?;
        let method = keys.string("quant_method")?;
        let mut parsed = match method.as_deref() {
            None | Some("compressed-tensors") => compressed_tensors(&keys)?,
            Some("gptq") => gptq(&keys)?,
            Some("auto-round") => auto_round(&keys)?,
            Some("awq") => awq(&keys)?,
            Some("fp8" | "fbgemm_fp8") => fp8(&keys)?,
            // Their tensors leave nothing open.
            Some("modelopt" | "modelopt_fp4" | "modelopt_mixed" | "mxfp4") => Config::default(),
            Some(other) => return Err(unknown(&file, other)),
        };
        parsed.method = method;
        parsed.file = file;
        Ok(parsed)
    }
}

fn section(config: &Value) -> Option<&Value> {
    let own =
        |v: &'_ Value| ["quantization_config", "compression_config"].into_iter().find(|k| v.get(k).is_some());
    let holder = if own(config).is_some() { config } else { config.get("text_config")? };
    holder.get(own(holder)?).filter(|v| !v.is_null())
}

fn unknown(file: &Path, method: &str) -> Error {
    Error::unsupported(
        format!("{}: quant_method is \"{method}\", which llmc does not read", file.display()),
        format!(
            "it reads {}; start from the unquantized model, or dequantize with the tool that wrote this",
            READ.join(", ")
        ),
    )
}

fn compressed_tensors(keys: &Keys) -> Result<Config> {
    let format = keys.string("format")?;
    if format.as_deref() == Some("marlin-24") {
        return Err(Error::unsupported(
            format!(
                "{}: the format \"marlin-24\" has been removed from its own readers",
                keys.file.display()
            ),
            "load it with the compressed-tensors release that wrote it and save it dense",
        ));
    }
    let mut claims = Vec::new();
    for group in keys.objects("config_groups")? {
        if let Some(weights) = group.object("weights")? {
            claims.push(claim(&weights)?);
        }
    }
    let other = keys.object("kv_cache_scheme")?.is_some() || keys.object("sparsity_config")?.is_some();
    let dense = other && keys.objects("config_groups")?.is_empty();
    Ok(Config { claims, dense, ..Config::default() })
}

fn claim(keys: &Keys) -> Result<Claim> {
    let strategy = keys.string("strategy")?;
    let granularity = match strategy.as_deref() {
        Some("tensor") => Some(Granularity::Tensor),
        Some("channel") => Some(Granularity::Channel),
        Some("block") => keys.pair("block_structure")?.map(|[rows, cols]| Granularity::Block(rows, cols)),
        None | Some("group" | "tensor_group") => keys.group_size("group_size")?,
        Some(other) => {
            return Err(keys.wrong("strategy", "tensor, channel, group, tensor_group or block", other));
        }
    };
    Ok(Claim { bits: keys.bits("num_bits")?, symmetric: keys.boolean("symmetric")?, granularity })
}

fn gptq(keys: &Keys) -> Result<Config> {
    let claim = Claim {
        bits: keys.bits("bits")?,
        symmetric: keys.boolean("sym")?,
        granularity: keys.group_size("group_size")?,
    };
    let gptq_v2 = match keys.string("checkpoint_format")?.as_deref() {
        None | Some("gptq") => false,
        Some("gptq_v2") => true,
        Some(other) => {
            return Err(Error::unsupported(
                format!("{}: checkpoint_format is \"{other}\"", keys.file.display()),
                "llmc reads \"gptq\" and \"gptq_v2\"; kernel layouts such as marlin are made from these by the engines",
            ));
        }
    };
    let overridden = keys.get("dynamic").is_some();
    Ok(Config { claims: vec![claim], gptq_v2, overridden, ..Config::default() })
}

/// AutoRound packs in the layout of GPTQ or of AWQ; modules may differ by `extra_config`.
fn auto_round(keys: &Keys) -> Result<Config> {
    let packing = keys.string("packing_format")?;
    let packed = match packing.as_deref() {
        None => gptq(keys)?,
        // Its own packing is GPTQ's, with zero points as they are.
        Some("auto_round") => Config { gptq_v2: true, ..gptq(keys)? },
        Some(format) if format.ends_with("gptq") => gptq(keys)?,
        Some(format) if format.ends_with("awq") => awq(keys)?,
        Some(other) => {
            return Err(Error::unsupported(
                format!("{}: packing_format is \"{other}\"", keys.file.display()),
                "llmc reads \"auto_round\", \"auto_round:auto_gptq\" and \"auto_round:auto_awq\"",
            ));
        }
    };
    Ok(Config { overridden: keys.get("extra_config").is_some(), ..packed })
}

fn awq(keys: &Keys) -> Result<Config> {
    let format = keys.string("version")?;
    if let Some(other) = format.as_deref().filter(|&v| v != "gemm") {
        return Err(Error::unsupported(
            format!("{}: AWQ version is \"{other}\"", keys.file.display()),
            "llmc reads \"gemm\", the layout that nearly all AWQ checkpoints have",
        ));
    }
    let claim = Claim {
        bits: keys.bits("bits")?.or(keys.bits("w_bit")?),
        symmetric: keys.boolean("zero_point")?.map(|zero_point| !zero_point),
        granularity: keys.group_size("group_size")?.or(keys.group_size("q_group_size")?),
    };
    Ok(Config { claims: vec![claim], ..Config::default() })
}

fn fp8(keys: &Keys) -> Result<Config> {
    let granularity = keys.pair("weight_block_size")?.map(|[rows, cols]| Granularity::Block(rows, cols));
    let claims = granularity.map(|_| Claim { granularity, ..Claim::default() });
    Ok(Config { claims: claims.into_iter().collect(), ..Config::default() })
}

/// A JSON object whose values are asked for by type.
struct Keys<'a> {
    object: &'a Map<String, Value>,
    at: String,
    file: &'a Path,
}

impl<'a> Keys<'a> {
    fn of(value: &'a Value, at: &str, file: &'a Path) -> Result<Keys<'a>> {
        match value {
            Value::Object(object) => Ok(Keys { object, at: at.to_owned(), file }),
            other => Err(wrong(file, at, "an object", other)),
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    fn wrong(&self, key: &str, expected: &str, found: impl std::fmt::Display) -> Error {
        wrong(self.file, &format!("{}.{key}", self.at), expected, found)
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        as_type: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let read = |value| as_type(value).ok_or_else(|| self.wrong(key, expected, value));
        self.get(key).map(read).transpose()
    }

    fn string(&self, key: &str) -> Result<Option<String>> {
        self.read(key, "a string", |v| v.as_str().map(str::to_lowercase))
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    fn bits(&self, key: &str) -> Result<Option<u8>> {
        self.read(key, "2 to 8 bits", |v| {
            v.as_u64().filter(|bits| (2..=8).contains(bits)).map(|bits| bits as u8)
        })
    }

    /// −1 and 0 mean the whole row.
    fn group_size(&self, key: &str) -> Result<Option<Granularity>> {
        self.read(key, "a number of columns, or -1", |v| match v.as_i64()? {
            -1 | 0 => Some(Granularity::Channel),
            columns => usize::try_from(columns).ok().map(Granularity::Group),
        })
    }

    fn pair(&self, key: &str) -> Result<Option<[usize; 2]>> {
        let side = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
        self.read(key, "two sizes, [rows, columns]", |v| match v.as_array()?.as_slice() {
            [rows, cols] => Some([side(rows)?, side(cols)?]),
            _ => None,
        })
    }

    fn object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        self.get(key).map(|v| Keys::of(v, &format!("{}.{key}", self.at), self.file)).transpose()
    }

    /// The objects in an object. Older files name a preset (`"W8A8": ["Linear"]`), which says nothing that shapes don't.
    fn objects(&self, key: &str) -> Result<Vec<Keys<'a>>> {
        let Some(outer) = self.object(key)? else { return Ok(Vec::new()) };
        let named = outer.object.iter().filter(|(_, v)| !v.is_array());
        named.map(|(name, v)| Keys::of(v, &format!("{}.{name}", outer.at), self.file)).collect()
    }
}

fn wrong(file: &Path, at: &str, expected: &str, found: impl std::fmt::Display) -> Error {
    let found: String = found.to_string().chars().take(80).collect();
    Error::malformed_tensor(
        file,
        at,
        expected,
        found,
        "correct the key, or delete quantization_config: llmc then goes by the shapes",
    )
}
