//! A GGUF file (or its parts) as a [`Checkpoint`] of Hugging Face tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::config::{self, Input, SETTING_TENSORS};
use super::ggml_types;
use super::parse::parse;
use super::value::{Metadata, Value};
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::io::map::MappedFile;
use crate::io::side_file::refuse_stand_in;
use crate::io::source::{RawTensor, Source, Stored};
use crate::model::{self, Arch, Transform};
use crate::tensor::{DType, rows_cols};

/// The most tensors that one may stack: far beyond the experts of any model.
const MAX_PARTS: usize = 4096;
/// The most files that a model may be split into.
const MAX_FILES: u64 = 1000;

/// Opens a `.gguf`: maps it, gives the tensors their Hugging Face names, and rebuilds config.json and the tokenizer.
/// The first of several files (`…-00001-of-00003.gguf`) brings its siblings along. A model of an architecture that
/// [`model::ARCHITECTURES`] does not list keeps its GGUF names, and has no config.
///
/// # Errors
/// Those of [`parse`]; missing siblings; tensors whose shape contradicts the metadata.
pub fn open(path: &Path) -> Result<Checkpoint> {
    let model = Model::map(path)?;
    let arch = model.architecture();
    let config = arch.map(|arch| model.config(arch)).transpose()?;
    let tensors = match arch.zip(config.as_ref()) {
        Some((arch, config)) => model.sources(arch, config)?,
        None => model.plain_sources(),
    };
    Ok(Checkpoint {
        path: path.to_owned(),
        tensors,
        config,
        side_files: Vec::new(),
        metadata: model.strings(),
        activation_scales: BTreeMap::new(),
        packed: None,
        whole: None,
        quantization: model.quantization(),
        files: model.files,
    })
}

/// The files of a model, parsed.
struct Model {
    files: Vec<MappedFile>,
    /// Of the first file.
    metadata: Metadata,
    tensors: Vec<RawTensor>,
}

impl Model {
    fn map(path: &Path) -> Result<Model> {
        let mut model = Model { files: Vec::new(), metadata: Metadata::new(), tensors: Vec::new() };
        model.metadata = model.add(path)?;
        for sibling in siblings(path, &model.metadata)? {
            model.add(&sibling)?;
        }
        let mut names = std::collections::HashSet::new();
        if let Some(twice) = model.tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
            let hint = "the parts are not of one model: download all of them again";
            return Err(Error::malformed_tensor(path, &twice.name, "one tensor", "two, in two parts", hint));
        }
        Ok(model)
    }

    /// Maps and parses a file; its tensors join the others.
    fn add(&mut self, path: &Path) -> Result<Metadata> {
        let file = MappedFile::open(path)?;
        refuse_stand_in(path, file.bytes())?;
        let parsed = parse(path, file.bytes())?;
        let index = self.files.len();
        self.tensors.extend(parsed.tensors.into_iter().map(|tensor| RawTensor { file: index, ..tensor }));
        self.files.push(file);
        Ok(parsed.metadata)
    }

    fn path(&self) -> &Path {
        self.files[0].path()
    }

    fn tensor(&self, name: &str) -> Option<&RawTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    fn architecture(&self) -> Option<&'static Arch> {
        let name = self.metadata.get("general.architecture").and_then(Value::as_str).unwrap_or("");
        let experts = self.metadata.get(&format!("{name}.expert_count")).and_then(Value::as_u64);
        let arch = model::find_gguf(name, experts.is_some_and(|count| count > 0));
        if arch.is_none() {
            tracing::warn!(
                file = %self.path().display(),
                architecture = name,
                known = model::known(),
                "unknown architecture: tensors keep their GGUF names, and there is no config.json"
            );
        }
        arch
    }

    fn config(&self, arch: &Arch) -> Result<serde_json::Value> {
        let embedding = self.tensor("token_embd.weight").and_then(|tensor| tensor.shape.first());
        let input = Input {
            file: self.path(),
            metadata: &self.metadata,
            vocab_size: embedding.copied(),
            has: &|name| self.tensor(name).is_some(),
            values: &|name| self.values(name),
        };
        let mut config = config::from_metadata(arch, &input)?;
        config["torch_dtype"] = self.torch_dtype().into();
        Ok(config)
    }

    /// The values of an F32 tensor.
    fn values(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.tensor(name).filter(|tensor| tensor.dtype == DType::F32)?;
        let bytes = &self.files[tensor.file].bytes()[tensor.range.clone()];
        Some(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// The element type that holds the most bytes.
    fn main_dtype(&self) -> Option<DType> {
        let mut bytes: IndexMap<DType, usize> = IndexMap::new();
        for tensor in &self.tensors {
            *bytes.entry(tensor.dtype).or_default() += tensor.range.len();
        }
        bytes.into_iter().max_by_key(|(_, len)| *len).map(|(dtype, _)| dtype)
    }

    fn torch_dtype(&self) -> &'static str {
        match self.main_dtype() {
            Some(DType::F32) => "float32",
            Some(DType::F16) => "float16",
            _ => "bfloat16",
        }
    }

    fn quantization(&self) -> Option<String> {
        let dtype = self.main_dtype().filter(|dtype| matches!(dtype, DType::Block(_)))?;
        Some(format!("gguf, mostly {}", ggml_types::name(dtype)))
    }

    fn strings(&self) -> BTreeMap<String, String> {
        self.metadata.iter().filter_map(|(key, value)| Some((key.clone(), value.to_text()?))).collect()
    }

    fn plain_sources(&self) -> IndexMap<String, Source> {
        self.tensors.iter().map(|raw| (raw.name.clone(), Source::dense(raw.clone()))).collect()
    }

    fn sources(&self, arch: &Arch, config: &serde_json::Value) -> Result<IndexMap<String, Source>> {
        let mut sources = IndexMap::new();
        for raw in self.tensors.iter().filter(|raw| !SETTING_TENSORS.contains(&raw.name.as_str())) {
            for source in self.renamed(arch, config, raw)? {
                let name = source.name.clone();
                if sources.insert(name.clone(), source).is_some() {
                    let hint = "the file mixes GGUF and Hugging Face names: convert the model again";
                    return Err(Error::malformed_tensor(self.path(), name, "one tensor", "two", hint));
                }
            }
        }
        Ok(sources)
    }

    /// The Hugging Face tensors that a GGUF tensor holds.
    fn renamed(&self, arch: &Arch, config: &serde_json::Value, raw: &RawTensor) -> Result<Vec<Source>> {
        let Some(content) = arch.content(&raw.name) else {
            tracing::warn!(
                tensor = raw.name,
                arch = arch.gguf.name,
                "unknown tensor: it keeps its GGUF name"
            );
            return Ok(vec![Source::dense(raw.clone())]);
        };
        let parts = if content.is_stacked() { raw.shape.first().copied().unwrap_or(1) } else { 1 };
        if parts > MAX_PARTS {
            let hint = "no model stacks so many: convert the model again";
            let expected = format!("at most {MAX_PARTS} stacked tensors");
            return Err(Error::malformed_tensor(self.path(), &raw.name, expected, parts, hint));
        }
        let shape = content.hf_shape(&raw.shape);
        let [rows, _] = rows_cols(&shape);
        let source = |part| {
            let name = content.hf_name(part);
            let transform = transform(arch, config, &name);
            let stored = Stored::Dense(raw.clone());
            let source =
                Source { first_row: part * rows, transform, ..Source::new(name, shape.clone(), stored) };
            self.check_heads(&source).map(|()| source)
        };
        (0..parts).map(source).collect()
    }

    /// Refuses q and k that are not a whole number of heads of even size.
    fn check_heads(&self, source: &Source) -> Result<()> {
        if source.transform.fits(&source.shape) {
            return Ok(());
        }
        let hint = "the metadata do not belong to these tensors: convert the model again";
        let expected = format!("rows that {:?} can reorder", source.transform);
        Err(Error::malformed_tensor(self.path(), &source.name, expected, format!("{:?}", source.shape), hint))
    }
}

/// The change that GGUF makes to a Hugging Face tensor of the model that config.json describes.
pub(crate) fn transform(arch: &Arch, config: &serde_json::Value, hf_name: &str) -> Transform {
    let count = |key: &str| config.get(key).and_then(serde_json::Value::as_u64).map(|v| v as usize);
    let heads = count("num_attention_heads").unwrap_or(0);
    arch.transform(hf_name, heads, count("num_key_value_heads").unwrap_or(heads))
}

/// The other files of a model that is split: `split.count` says how many, the names say which.
fn siblings(path: &Path, metadata: &Metadata) -> Result<Vec<PathBuf>> {
    let count = metadata.get("split.count").and_then(Value::as_u64).unwrap_or(1);
    if count <= 1 {
        return Ok(Vec::new());
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let first = format!("-00001-of-{count:05}.gguf");
    match name.strip_suffix(&first) {
        Some(stem) if count <= MAX_FILES => Ok((2..=count)
            .map(|n| path.with_file_name(format!("{stem}-{n:05}-of-{count:05}.gguf")))
            .collect()),
        _ => Err(Error::malformed(
            path,
            format!("the first of {count} parts, named …{first}"),
            name,
            "open the part that ends in -00001-of-…, with the others beside it under their original names",
        )),
    }
}
