//! Makes a plan: each tensor of the output gets a role, a scheme or a float type, and its parts.

use std::collections::HashMap;

use super::format::{Admission, KERNEL_GROUPS, LayoutContext, slow_group};
use super::fuse::{self, CommonForm};
use super::globs::Globs;
use super::request::Request;
use super::resolved::Plan;
use super::role::{Role, layer_number};
use super::roles::Roles;
use super::tensors::{Action, Measured, OutputTensor, Part, TensorPlan};
use crate::error::{Error, Result};
use crate::io::{Checkpoint, Source, Stored};
use crate::numerics::ggml::integers;
use crate::numerics::presets::ActivationScheme;
use crate::numerics::{Granularity, Number, Scheme, Sparsity};
use crate::tensor::{BlockType, DType, rows_cols};

impl Plan {
    /// Resolves a recipe on a checkpoint. Touches headers only.
    ///
    /// # Errors
    /// Names that are unknown or do not go together; an input that is quantized already, unless `dequantize`; a scheme
    /// that the format cannot hold; with `strict`, any substitution.
    pub(crate) fn new(request: Request, checkpoint: &Checkpoint) -> Result<Plan> {
        refuse_quantized(&request, checkpoint)?;
        let dtype = request.dtype.unwrap_or_else(|| common_dtype(checkpoint));
        let mut planner = Planner {
            request: request.clone(),
            checkpoint,
            dtype,
            globs: Globs::new(&request.recipe)?,
            common_group: None,
            roles: Roles::of(checkpoint.config.as_ref()).among(checkpoint.tensors.keys().map(String::as_str)),
        };
        let roles = planner.roles;
        let outputs = request.format.arrange(checkpoint)?;
        if request.format.capabilities().one_group_size {
            planner.common_group = planner.find_common_group(&outputs)?;
        }
        let mut tensors =
            outputs.into_iter().map(|output| planner.tensor(output)).collect::<Result<Vec<TensorPlan>>>()?;
        planner.globs.all_matched()?;
        planner.align_fused(&mut tensors)?;
        fuse::note_excluded(&mut tensors, &roles);
        fuse::link(&mut tensors, &roles);
        let plan = Plan { request, roles, tensors, dtype, metadata: Vec::new() };
        plan.refuse_substitutions()?;
        plan.refuse_unfit_group()?;
        plan.refuse_nothing()?;
        plan.refuse_zeroless()?;
        plan.refuse_no_cache()?;
        Ok(plan)
    }

    /// The scales of a cache need a place.
    fn refuse_no_cache(&self) -> Result<()> {
        let caches = |tensor: &TensorPlan| tensor.measured.iter().any(|what| *what != Measured::Input);
        if self.request.kv_cache.is_none() || self.tensors.iter().any(caches) {
            return Ok(());
        }
        Err(Error::unsupported(
            "no attention of this model is known to cache keys and values: there is none to scale",
            "leave --kv-cache out",
        ))
    }
}

struct Planner<'a> {
    request: Request,
    checkpoint: &'a Checkpoint,
    dtype: DType,
    globs: Globs,
    /// The group size of every tensor, where the format has one for all and what was asked does not divide each.
    common_group: Option<usize>,
    roles: Roles,
}

impl Planner<'_> {
    fn tensor(&self, output: OutputTensor) -> Result<TensorPlan> {
        let source = self.source(&output)?;
        let role = self.role(source, &output);
        let linear = role == Role::Linear;
        let wanted =
            self.request.scheme.and_then(|scheme| self.wanted(scheme, role, source, &output).transpose());
        let (action, note, substituted) = match wanted.transpose()? {
            Some(scheme) => self.admit(&output, self.in_common_groups(scheme), source)?,
            None => {
                let names = [source.name.as_str(), output.name.as_str()];
                let overridden = self.globs.overridden(&names).map(|index| self.request.overrides[index]);
                let unasked = self.globs.excluded(&names) || overridden == Some(None);
                let against = matches!(role, Role::Unsupported(_)) && self.request.scheme.is_some();
                (self.store(&output, source), self.why_left_alone(role, source), against && !unasked)
            }
        };
        let (parts, measured) = self.parts(&output, &action);
        let sparsity = self.sparsity(role, source, &output)?;
        let corrected = source.corrected;
        Ok(TensorPlan {
            output,
            action,
            sparsity,
            linear,
            note,
            substituted,
            parts,
            measured,
            corrected,
            fused: None,
        })
    }

    /// The zeros that were asked for in this tensor. What is in no block, beside the embedding or the head, is left alone like these.
    fn sparsity(&self, role: Role, source: &Source, output: &OutputTensor) -> Result<Option<Sparsity>> {
        let names = [source.name.as_str(), output.name.as_str()];
        let own = self.globs.zeros(&names, &self.request.zeros);
        let asked = self.request.sparsity().map(|of_stage| own.unwrap_or(of_stage));
        let in_block = layer_number(&source.name).is_some();
        let is_pruned = |zeros: &Sparsity| {
            zeros.share > 0.0 && role == Role::Linear && in_block && !self.globs.excluded(&names)
        };
        let asked = asked.filter(is_pruned);
        let [_, cols] = rows_cols(&source.shape);
        match asked {
            Some(sparsity) if !sparsity.divides(cols) => Err(Error::usage(
                format!("{}: its {cols} columns are no whole groups of {}", source.name, sparsity.pattern),
                "take another --pattern, or leave the tensor alone with --exclude",
            )),
            asked => Ok(asked),
        }
    }

    /// Makes the members of an engine's group follow the one that the format has set apart.
    fn align_fused(&self, tensors: &mut [TensorPlan]) -> Result<()> {
        for (members, form) in fuse::divided(tensors, &self.roles) {
            members.into_iter().try_for_each(|index| self.follow(&mut tensors[index], &form))?;
        }
        Ok(())
    }

    fn follow(&self, tensor: &mut TensorPlan, form: &CommonForm) -> Result<()> {
        let action = match form.scheme {
            Some(scheme) => Action::Quantize(scheme),
            None => self.store(&tensor.output, self.source(&tensor.output)?),
        };
        if tensor.action != action {
            (tensor.parts, tensor.measured) = self.parts(&tensor.output, &action);
            tensor.action = action;
            tensor.note = Some(form.why.clone());
            tensor.substituted = true;
        }
        Ok(())
    }

    fn role(&self, source: &Source, output: &OutputTensor) -> Role {
        let dtype = float_dtype(source).unwrap_or(self.dtype);
        self.roles.role(&source.name, &output.shape, dtype)
    }

    /// The largest group size that kernels know, no larger than asked, that divides the columns of every tensor to
    /// quantize; `None` where what was asked does, or where there is none.
    fn find_common_group(&self, outputs: &[OutputTensor]) -> Result<Option<usize>> {
        let Some(scheme) = self.request.scheme else { return Ok(None) };
        let Granularity::Group(asked) = scheme.granularity else { return Ok(None) };
        let mut columns = Vec::new();
        for output in outputs {
            let source = self.source(output)?;
            if self.wanted(scheme, self.role(source, output), source, output)?.is_some() {
                columns.push(rows_cols(&output.shape)[1]);
            }
        }
        let divides = |size: usize| columns.iter().all(|cols| cols.is_multiple_of(size));
        let found = KERNEL_GROUPS.iter().copied().find(|&size| size <= asked && divides(size));
        Ok(found.filter(|_| !divides(asked)))
    }

    fn source(&self, output: &OutputTensor) -> Result<&Source> {
        let name = output.pieces.first().map_or(output.name.as_str(), |piece| piece.source.as_str());
        self.checkpoint.tensors.get(name).ok_or_else(|| {
            Error::malformed_tensor(
                &self.checkpoint.path,
                name,
                format!("a tensor for the output's {}", output.name),
                "none of that name",
                "the checkpoint lacks a tensor that its architecture needs; `llmc inspect` lists what is there",
            )
        })
    }

    /// The scheme that was asked for on this tensor, before the format has its say; `None` leaves it dense.
    fn wanted(
        &self,
        scheme: Scheme,
        role: Role,
        source: &Source,
        output: &OutputTensor,
    ) -> Result<Option<Scheme>> {
        let names = [source.name.as_str(), output.name.as_str()];
        let (excluded, included) = (self.globs.excluded(&names), self.globs.included(&names));
        let overridden = self.globs.overridden(&names).map(|index| self.request.overrides[index]);
        let Some(scheme) = overridden.unwrap_or(Some(scheme)).filter(|_| !excluded) else { return Ok(None) };
        if included {
            let floats = source.shape.len() >= 2 && float_dtype(source).is_none_or(DType::is_float);
            return if floats { Ok(Some(scheme)) } else { Err(cannot_include(source)) };
        }
        Ok(match role {
            Role::Linear => Some(scheme),
            Role::Embedding | Role::Head if !self.request.format.capabilities().quantized_heads => None,
            Role::Embedding if !self.tied() => Some(block_scheme(scheme)),
            Role::Embedding | Role::Head => Some(head_scheme(block_scheme(scheme))),
            Role::Other(_) | Role::Unsupported(_) => None,
        })
    }

    fn admit(
        &self,
        output: &OutputTensor,
        scheme: Scheme,
        source: &Source,
    ) -> Result<(Action, Option<String>, bool)> {
        Ok(match self.request.format.admit(&scheme, &output.shape, self.dtype) {
            Admission::As(scheme) => match self.common_group {
                Some(size) if scheme.granularity == Granularity::Group(size) => {
                    let why = format!(
                        "groups of {size}, which divide every linear: the format has one size for all"
                    );
                    (Action::Quantize(scheme), Some(why), true)
                }
                _ => (Action::Quantize(scheme), self.note(scheme), false),
            },
            Admission::Instead(scheme, why) => (Action::Quantize(scheme), Some(why), true),
            Admission::Dense(why) => (self.store(output, source), Some(format!("left dense: {why}")), true),
            Admission::Never(hint) => {
                let what = format!("format {} cannot hold {scheme}", self.request.format.name());
                return Err(Error::unsupported(what, hint));
            }
        })
    }

    /// The scheme with the group size of every tensor, where there is one.
    fn in_common_groups(&self, scheme: Scheme) -> Scheme {
        match (scheme.granularity, self.common_group) {
            (Granularity::Group(_), Some(size)) => Scheme { granularity: Granularity::Group(size), ..scheme },
            _ => scheme,
        }
    }

    /// The note on a scheme that is stored as it is: GGUF heads get a finer block type than was asked for, by rule,
    /// and not every group size that a format can say has a kernel.
    fn note(&self, scheme: Scheme) -> Option<String> {
        match (scheme.number, scheme.granularity) {
            (Number::Ggml(_), _) => {
                (self.request.scheme != Some(scheme)).then(|| "the head, by rule".to_owned())
            }
            (Number::Int { .. }, Granularity::Group(size)) if self.request.format.capabilities().kernels => {
                slow_group(size).map(str::to_owned)
            }
            _ => None,
        }
    }

    fn store(&self, output: &OutputTensor, source: &Source) -> Action {
        let own = float_dtype(source);
        let dtype = match (own, self.request.dtype) {
            (Some(own), Some(asked)) if own.is_float() => asked,
            (Some(own), _) if !matches!(own, DType::Block(_)) => own,
            _ => self.dtype,
        };
        Action::Store(self.request.format.dense_dtype(output, dtype))
    }

    fn why_left_alone(&self, role: Role, source: &Source) -> Option<String> {
        self.request.scheme?;
        Some(match role {
            _ if self.globs.excluded(&[&source.name]) => "excluded".to_owned(),
            _ if self.is_overridden_as_dense(source) => "dense, by an override".to_owned(),
            Role::Other(why) => why.to_owned(),
            Role::Unsupported(why) => format!("left dense: {why}"),
            Role::Embedding => "an embedding".to_owned(),
            Role::Head => "the head".to_owned(),
            Role::Linear => "excluded".to_owned(),
        })
    }

    fn is_overridden_as_dense(&self, source: &Source) -> bool {
        self.globs.overridden(&[&source.name]).is_some_and(|index| self.request.overrides[index].is_none())
    }

    /// The parts of a tensor, and what the last of them are scales of.
    fn parts(&self, output: &OutputTensor, action: &Action) -> (Vec<Part>, Vec<Measured>) {
        let mut parts = self.own_parts(output, action);
        let format = self.request.format;
        let scales = self.measures(output, action).into_iter();
        let scales = scales.filter_map(|what| Some((what, format.measured(output, what)?)));
        let (measured, scales): (Vec<Measured>, Vec<Part>) = scales.unzip();
        parts.extend(scales);
        (parts, measured)
    }

    /// The scales that calibration measures for a linear.
    fn measures(&self, output: &OutputTensor, action: &Action) -> Vec<Measured> {
        let inputs = self.request.activations.and_then(ActivationScheme::measured);
        let quantized = matches!(action, Action::Quantize(_));
        let input = inputs.filter(|_| quantized).map(|_| Measured::Input);
        let cached = if self.request.kv_cache.is_some() { self.roles.cached(&output.name) } else { &[] };
        input.into_iter().chain(cached.iter().copied()).collect()
    }

    fn own_parts(&self, output: &OutputTensor, action: &Action) -> Vec<Part> {
        match action {
            Action::Quantize(scheme) => {
                let context = LayoutContext { dtype: self.dtype, activations: self.request.activations };
                self.request.format.parts(output, scheme, &context)
            }
            Action::Store(dtype) => {
                vec![Part { name: output.name.clone(), dtype: *dtype, shape: output.shape.clone() }]
            }
        }
    }

    fn tied(&self) -> bool {
        !self.checkpoint.tensors.contains_key("lm_head.weight")
    }
}

/// The block type that holds a scheme's integers, where there is one: what no method has calibrated is rounded as it.
fn block_scheme(scheme: Scheme) -> Scheme {
    integers::holding(&scheme).map_or(scheme, Scheme::ggml)
}

/// The scheme of a quantized head (or the embedding tied to it): no less than 6 bits, as in llama.cpp.
fn head_scheme(scheme: Scheme) -> Scheme {
    match scheme.number {
        Number::Ggml(BlockType::Q8_0 | BlockType::Q6_K) => scheme,
        Number::Ggml(_) => Scheme::ggml(BlockType::Q6_K),
        _ => scheme,
    }
}

/// The stored type of a dense tensor; `None` where it is quantized.
fn float_dtype(source: &Source) -> Option<DType> {
    match &source.stored {
        Stored::Dense(raw) => Some(raw.dtype),
        Stored::Sparse { dtype, .. } => Some(*dtype),
        Stored::Quantized { .. } => None,
    }
}

/// The float type of most dense weights; BF16 where there are none.
fn common_dtype(checkpoint: &Checkpoint) -> DType {
    let mut counts: HashMap<DType, u64> = HashMap::new();
    for source in checkpoint.tensors.values() {
        if let Some(dtype @ (DType::F32 | DType::F16 | DType::BF16)) = float_dtype(source) {
            let weight =
                if source.shape.len() < 2 { 1 } else { source.shape.iter().product::<usize>() as u64 };
            *counts.entry(dtype).or_default() += weight;
        }
    }
    let quantized =
        checkpoint.tensors.values().any(|source| matches!(float_dtype(source), None | Some(DType::Block(_))));
    let most = counts.into_iter().max_by_key(|&(dtype, count)| (count, dtype.name()));
    match most {
        // A GGUF's few F32 norms do not make an F32 model.
        Some((DType::F32, _)) | None if quantized => DType::BF16,
        Some((dtype, _)) => dtype,
        None => DType::BF16,
    }
}

fn refuse_quantized(request: &Request, checkpoint: &Checkpoint) -> Result<()> {
    let blocks = || {
        checkpoint.tensors.values().find_map(|source| match float_dtype(source) {
            Some(DType::Block(block)) => Some(format!("gguf, {}", block.name())),
            _ => None,
        })
    };
    let Some(what) = checkpoint.quantization.clone().or_else(blocks) else { return Ok(()) };
    let writes_codes = request.scheme.is_some() || request.kv_cache.is_some();
    let converts = !writes_codes && request.sparsity().is_none() && !request.reshapes();
    if converts || request.recipe.dequantize {
        return Ok(());
    }
    Err(Error::unsupported(
        format!("{} is quantized already ({what})", checkpoint.path.display()),
        "start from the original weights if you can; --dequantize of quantize and prune starts from these, and adds its error to theirs",
    ))
}

fn cannot_include(source: &Source) -> Error {
    Error::usage(
        format!("--include: {} of shape {:?} cannot be quantized", source.name, source.shape),
        "only float tensors of two or more dimensions can; make the glob narrower",
    )
}
