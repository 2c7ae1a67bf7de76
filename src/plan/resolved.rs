//! A plan: every tensor of an output and what becomes of it, resolved and printable, before any work.

use std::collections::{HashMap, HashSet};

use indexmap::IndexSet;

use super::format::{Contents, Engine};
use super::globs::Globs;
use super::request::Request;
use super::roles::Roles;
use super::tensors::{Action, TensorPlan};
use crate::error::{Error, Result};
use crate::numerics::{Scheme, Sparsity};
use crate::tensor::DType;

/// Everything that will be done, resolved and printable.
#[derive(Clone)]
pub struct Plan {
    /// The recipe, resolved.
    pub request: Request,
    /// The roles of the input's tensors.
    pub roles: Roles,
    /// Every tensor of the output, in the order of the input.
    pub tensors: Vec<TensorPlan>,
    /// The model's float type: that of most of its weights, or what `--dtype` asks for.
    pub dtype: DType,
    /// String metadata for the files' headers: version, recipe, blake3 of the inputs.
    pub metadata: Vec<(String, String)>,
}

impl Plan {
    /// The scheme of each quantized source by its name, and the number of its [`TensorPlan::fused`].
    pub(crate) fn schemes(&self) -> HashMap<&str, (Scheme, Option<usize>)> {
        let mut schemes = HashMap::new();
        for tensor in &self.tensors {
            let Action::Quantize(scheme) = tensor.action else { continue };
            schemes.extend(tensor.sources().map(|source| (source, (scheme, tensor.fused))));
        }
        schemes
    }

    /// The zeros of each pruned source by its name.
    pub(crate) fn sparsities(&self) -> HashMap<&str, Sparsity> {
        let tensors = self.tensors.iter().filter_map(|tensor| Some((tensor, tensor.sparsity?)));
        tensors.flat_map(|(tensor, zeros)| tensor.sources().map(move |source| (source, zeros))).collect()
    }

    /// The pruned sources whose zeros no override sets.
    ///
    /// # Errors
    /// Globs that are none.
    pub(crate) fn pruned_as_the_stage_says(&self) -> Result<HashSet<&str>> {
        let globs = Globs::new(&self.request.recipe)?;
        let is_free = |tensor: &&TensorPlan| {
            let names: Vec<&str> = tensor.sources().take(1).chain([tensor.output.name.as_str()]).collect();
            tensor.sparsity.is_some() && globs.zeros(&names, &self.request.zeros).is_none()
        };
        Ok(self.tensors.iter().filter(is_free).flat_map(TensorPlan::sources).collect())
    }

    /// The contents of the output's files, for its format.
    pub fn contents(&self) -> Contents<'_> {
        Contents {
            tensors: &self.tensors,
            dtype: self.dtype,
            dtype_requested: self.request.dtype.is_some(),
            activations: self.request.activations,
            kv_cache: self.request.kv_cache,
            max_shard_size: self.request.recipe.max_shard_size,
            metadata: &self.metadata,
        }
    }

    /// The engines that load every scheme of the output. transformers that dequantizes loads what it also loads packed.
    pub(crate) fn engines(&self) -> Vec<Engine> {
        let format = self.request.format;
        let mut lists: Vec<&'static [Engine]> = Vec::new();
        for tensor in &self.tensors {
            if let Action::Quantize(scheme) = &tensor.action {
                lists.push(format.engines(scheme));
            }
        }
        lists.dedup();
        if lists.is_empty() {
            return format.capabilities().engines.to_vec();
        }
        let loads = |list: &&[Engine], engine: Engine| {
            let dequantizes = engine == Engine::TransformersDequantizing;
            list.contains(&engine) || dequantizes && list.contains(&Engine::TransformersCompressed)
        };
        let is_common = |engine: &Engine| lists.iter().all(|list| loads(list, *engine));
        let found: IndexSet<Engine> = lists.iter().copied().flatten().copied().filter(is_common).collect();
        found.into_iter().collect()
    }

    /// Bytes of weights that will be stored.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::bytes).sum()
    }

    /// With `strict`: refuses tensors that use a different scheme than requested.
    pub(crate) fn refuse_substitutions(&self) -> Result<()> {
        let changed: Vec<&TensorPlan> = self.tensors.iter().filter(|tensor| tensor.substituted).collect();
        match changed.first() {
            Some(first) if self.request.recipe.strict => Err(Error::unsupported(
                format!(
                    "--strict: {} of {} tensors cannot be stored as asked; the first is {}: {}",
                    changed.len(),
                    self.tensors.len(),
                    first.output.name,
                    first.note.as_deref().unwrap_or_default(),
                ),
                "they are marked ! above; leave --strict out to accept them",
            )),
            _ => Ok(()),
        }
    }
}
