//! Checkpoints cut before they are planned: fewer layers, heads, channels, experts, columns or tokens. What comes out is an
//! ordinary checkpoint, with sets of rows and columns in its sources, layers numbered anew, and a config.json to match.

mod config;
mod knife;
mod proof;
mod vocabulary;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::map::MappedFile;
use super::{Checkpoint, RawTensor, Source, Whole, safetensors};
use crate::error::{Error, Result};
use crate::model::{self, Arch, Model, Sizes};
use crate::recipe::{Kept, Surgery};
use knife::Knife;

impl Checkpoint {
    /// The sizes of its model.
    ///
    /// # Errors
    /// No config.json; a model that llmc does not run.
    pub(crate) fn sizes(&self) -> Result<Sizes> {
        let config = self.config.as_ref().ok_or_else(no_config)?;
        let (arch, section) = model::language_model(config).ok_or_else(|| unknown(config))?;
        Ok(self.sizes_of(arch, &model::configure(section)?))
    }

    /// The architecture of its model.
    ///
    /// # Errors
    /// No config.json; a model that llmc does not run.
    pub(crate) fn arch(&self) -> Result<&'static Arch> {
        let config = self.config.as_ref().ok_or_else(no_config)?;
        Ok(model::language_model(config).ok_or_else(|| unknown(config))?.0)
    }

    /// The number of its weights.
    pub(crate) fn weights(&self) -> u64 {
        self.tensors.values().map(|source| source.shape.iter().map(|dim| *dim as u64).product::<u64>()).sum()
    }

    fn sizes_of(&self, arch: &Arch, model: &Model) -> Sizes {
        let shapes = self.tensors.values().map(|source| (source.name.as_str(), source.shape.as_slice()));
        Sizes::of(arch, model, shapes)
    }

    /// Leaves of the model what a surgery keeps.
    ///
    /// # Errors
    /// A model that llmc does not run; numbers that it does not have; widths that differ between layers; what its config.json cannot
    /// say. Nothing is read but headers.
    pub(crate) fn edited(&self, surgery: &Surgery) -> Result<Checkpoint> {
        self.cut(surgery).map_err(|error| error.in_checkpoint(&self.path))
    }

    fn cut(&self, surgery: &Surgery) -> Result<Checkpoint> {
        let whole = self.config.as_ref().ok_or_else(no_config)?;
        let (arch, section) = model::language_model(whole).ok_or_else(|| unknown(whole))?;
        let model = model::configure(section)?;
        let knife = Knife { arch, model: &model, surgery, sizes: self.sizes_of(arch, &model) };
        knife.check()?;
        refuse_unknown(self, &knife)?;
        let mut edited = section.as_object().cloned().unwrap_or_default();
        config::edit(&mut edited, &knife)?;
        proof::check(&model::configure(&Value::Object(edited.clone()))?, &knife)?;
        let tensors = self.tensors.values().map(|source| knife.cut(source)).collect::<Result<Vec<_>>>()?;
        let side_files = match &surgery.vocabulary {
            Some(kept) => vocabulary::files(self, kept)?,
            None => self.side_files.clone(),
        };
        Ok(Checkpoint {
            side_files,
            tensors: tensors.into_iter().flatten().map(|source| (source.name.clone(), source)).collect(),
            config: Some(replaced(whole, section, edited, surgery.vocabulary.as_ref())),
            whole: self
                .whole
                .clone()
                .or_else(|| Some(Whole { sizes: knife.sizes.clone(), weights: self.weights() })),
            activation_scales: Default::default(),
            ..self.clone()
        })
    }
}

pub(crate) use vocabulary::with_needed;

/// Corrected weights take the place of stored ones, before the checkpoint is cut.
impl Checkpoint {
    /// Takes the tensors of safetensors files as the weights of their names.
    ///
    /// # Errors
    /// A tensor of no weight, or of another shape.
    pub(crate) fn corrected(mut self, files: &[PathBuf]) -> Result<Checkpoint> {
        for path in files {
            let file = MappedFile::open(path)?;
            for raw in safetensors::parse(path, self.files.len(), file.bytes())?.tensors {
                let source = self.tensors.get_mut(&raw.name).filter(|source| source.shape == raw.shape);
                let Some(source) = source else { return Err(stray(path, &raw)) };
                source.replacement = Some(Arc::new(Source::dense(raw)));
            }
            self.files.push(file);
        }
        Ok(self)
    }
}

fn stray(path: &Path, raw: &RawTensor) -> Error {
    let hint = "it is left from another run: remove the folder, and run again";
    Error::malformed_tensor(path, &raw.name, "a weight of the model", format!("{:?}", raw.shape), hint)
}

/// The config.json with its section of the language model replaced.
fn replaced(whole: &Value, section: &Value, edited: Map<String, Value>, vocabulary: Option<&Kept>) -> Value {
    if std::ptr::eq(whole, section) {
        return Value::Object(edited);
    }
    let mut whole = whole.clone();
    whole["text_config"] = Value::Null;
    if let Some(kept) = vocabulary {
        vocabulary::edit_ids(&mut whole, kept);
        if let Some(size) = whole.get_mut("vocab_size") {
            *size = kept.numbers().len().into();
        }
    }
    whole["text_config"] = Value::Object(edited);
    whole
}

/// Refuses tensors and files of which llmc does not know how they would be cut.
fn refuse_unknown(checkpoint: &Checkpoint, knife: &Knife) -> Result<()> {
    let Surgery { hidden, vocabulary, .. } = knife.surgery;
    let widths =
        [hidden.as_ref().map(|_| knife.sizes.hidden), vocabulary.as_ref().map(|_| knife.sizes.vocabulary)];
    let is_as_wide = |source: &&Source| {
        knife.arch.loaded(&source.name).is_none()
            && source.shape.iter().any(|size| widths.contains(&Some(*size)))
    };
    if let Some(source) = checkpoint.tensors.values().find(is_as_wide) {
        let what =
            format!("{}: it is as wide as what is cut, and llmc does not know what it is", source.name);
        return Err(Error::unsupported(
            what,
            "cut layers, heads or channels instead, or save the model without this part",
        ));
    }
    let sentences = checkpoint.side_files.iter().any(|file| file.name == "modules.json");
    if hidden.is_some() && sentences {
        let what = "the modules of a sentence encoder are as wide as its residual stream";
        return Err(Error::unsupported(what, "cut layers, heads or channels instead"));
    }
    Ok(())
}

fn no_config() -> Error {
    Error::unsupported(
        "no config.json beside the weights: their layers and widths are not known",
        "give a folder that contains the model and its config.json",
    )
}

fn unknown(config: &Value) -> Error {
    // The error that names the architectures that llmc runs.
    model::configure(config).err().unwrap_or_else(no_config)
}
