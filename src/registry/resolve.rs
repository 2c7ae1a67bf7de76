//! Resolves a recipe: looks its names up in the lists of methods, schemes and formats.

use std::sync::Arc;

use toml::Table;

use super::{METHODS, shaping};
use crate::error::{Error, Result, within};
use crate::export::FORMATS;
use crate::io::Checkpoint;
use crate::names::unknown;
use crate::numerics::presets::ActivationScheme;
use crate::numerics::{EightBits, Fp8, Number, Scheme};
use crate::plan::{Format, Plan, Request};
use crate::prune::allocation;
use crate::quant::rtn::Rtn;
use crate::recipe::schemes::{adjust, find_preset};
use crate::recipe::{Calibration, DEFAULT_METHOD, Recipe};
use crate::similar::same;
use crate::stage::{Allocation, Def, Quantize, Scope, Shape, Stage};
use crate::tensor::DType;

/// The most stages of a recipe: each is built before any work.
const MOST_STAGES: usize = 32;
/// The most overrides of a recipe: a glob each.
const MOST_OVERRIDES: usize = 100_000;
/// The most columns of a group, beyond any kernel's.
const LARGEST_GROUP: usize = 65_536;
/// The hint where text is missing.
const NAME_TEXT: &str = "name some with --data FILE; --data self lets the model write it";

impl Recipe {
    /// Sets a key by its path: `group_size=64`, `calibration.samples=256`, or a parameter of a stage by the name of its
    /// method, `gptq.damping=0.05`. Text that is no TOML value becomes a string.
    ///
    /// # Errors
    /// Text that is not `key=value`; unknown keys, with the nearest known one.
    pub(crate) fn set(&mut self, assignment: &str) -> Result<()> {
        let (key, text) = assignment.split_once('=').ok_or_else(|| {
            Error::usage(format!("--set {assignment}: not key=value"), "for example --set gptq.damping=0.05")
        })?;
        let value =
            format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        let value = value.unwrap_or_else(|| toml::Value::String(text.to_owned()));
        let (first, rest) = key.split_once('.').unwrap_or(("", key));
        if let Some(stage) = self.stages.iter_mut().find(|stage| same(&stage.method, first)) {
            stage.parameters.insert(rest.to_owned(), value);
            return self.build_stages(&[]).map(drop);
        }
        if METHODS.iter().any(|def| same(def.name, first)) {
            let what = format!("--set {key}: the recipe has no stage {first}");
            return Err(Error::usage(what, format!("its stages: {}", self.method_names())));
        }
        let mut table = Table::try_from(&*self).expect("a recipe is plain values");
        let mut inner = &mut table;
        if !first.is_empty() {
            let entry = inner.entry(first).or_insert_with(|| Table::new().into());
            inner = entry.as_table_mut().ok_or_else(|| {
                Error::usage(
                    format!("--set {key}: {first} has no keys in it"),
                    "use method.parameter for stages",
                )
            })?;
        }
        inner.insert(rest.to_owned(), value);
        *self = Recipe::from_table(&format!("--set {assignment}"), table)?;
        Ok(())
    }

    /// Plans the recipe on a checkpoint. Reads headers only.
    ///
    /// # Errors
    /// Names that are unknown or do not go together; an input that is quantized already, unless `dequantize`; a scheme that
    /// the format cannot hold; with `strict`, any substitution.
    pub fn plan(&self, checkpoint: &Checkpoint) -> Result<Plan> {
        Plan::new(self.resolve()?, checkpoint)
    }

    /// Looks the names up and checks that they go together.
    pub fn resolve(&self) -> Result<Request> {
        self.check_bounds()?;
        let preset = self.scheme.as_deref().map(find_preset).transpose()?;
        let scheme = preset.map(|preset| adjust(preset, self.group_size, self.symmetric)).transpose()?;
        let overrides = self.overrides.iter().map(|other| other.resolve(scheme));
        let overrides = overrides.collect::<Result<Vec<_>>>()?;
        let schemes: Vec<Scheme> = scheme.into_iter().chain(overrides.iter().copied().flatten()).collect();
        let stages = self.build_stages(&schemes)?;
        let (shapes, stages) = split_shapes(stages);
        self.refuse_budget()?;
        self.refuse_unallocated(&stages)?;
        self.refuse_uncalibrated(&shapes, &stages)?;
        let activations = preset.and_then(|preset| preset.activations);
        self.overrides.iter().try_for_each(|other| other.refuse_activations(activations))?;
        let kv_cache = self.kv_cache.as_deref().map(parse_kv_cache).transpose()?;
        self.refuse_unmeasured(activations)?;
        let zeros = self.overrides.iter().map(|other| other.zeros(&stages));
        let zeros = zeros.collect::<Result<Vec<_>>>()?;
        let request = Request {
            recipe: self.clone(),
            scheme,
            activations,
            kv_cache,
            rowwise: rowwise(&stages),
            shapes,
            stages,
            format: find_format(self.format_name(scheme.as_ref()))?,
            dtype: self.dtype.as_deref().map(parse_dtype).transpose()?,
            overrides,
            zeros,
        };
        refuse_format(&request)?;
        Ok(request)
    }

    /// Refuses numbers beyond any use, which would take memory or time without end.
    fn check_bounds(&self) -> Result<()> {
        within("the number of stages", self.stages.len(), 0..=MOST_STAGES)?;
        within("the number of overrides", self.overrides.len(), 0..=MOST_OVERRIDES)?;
        let groups = self.overrides.iter().map(|other| other.group_size).chain([self.group_size]);
        groups.flatten().try_for_each(|size| within("group_size", size, 0..=LARGEST_GROUP))?;
        within("the number of cuts", self.surgery.len(), 0..=MOST_STAGES)?;
        let known = shaping();
        for cut in self.surgery.iter().filter(|cut| !cut.method.is_empty()) {
            if !known.contains(&cut.method.as_str()) {
                return Err(unknown("method of a surgery", &cut.method, &known));
            }
        }
        self.calibration.as_ref().map_or(Ok(()), Calibration::check_bounds)
    }

    /// Refuses methods that read inputs without calibration text or statistics of an earlier run.
    fn refuse_uncalibrated(&self, shapes: &[Shape], stages: &[Stage]) -> Result<()> {
        let cuts = !shapes.is_empty() || !self.surgery.is_empty();
        match &self.calibration {
            Some(calibration) if !calibration.statistics.is_empty() && cuts => {
                let what = format!("{} from statistics: they are of the whole model", self.method_names());
                Err(Error::usage(what, "name a text with --data instead"))
            }
            Some(calibration) if !calibration.statistics.is_empty() => self.refuse_known(calibration, stages),
            Some(_) => Ok(()),
            None if shapes.is_empty()
                && !stages.iter().any(|stage| stage.needs().any() || stage.trains()) =>
            {
                Ok(())
            }
            None => {
                let what = format!("{}: needs text to calibrate on", self.method_names());
                Err(Error::usage(what, NAME_TEXT))
            }
        }
    }

    /// Refuses an allocation of zeros that leaves no choice, or that there is nothing to measure for.
    fn refuse_unallocated(&self, stages: &[Stage]) -> Result<()> {
        let allocated = stages.iter().find_map(|stage| match stage {
            Stage::Prune(method) if method.allocation() == Allocation::Owl => Some(method.sparsity()),
            _ => None,
        });
        let Some(sparsity) = allocated else { return Ok(()) };
        allocation::refuse_fixed(sparsity)?;
        match self.calibration {
            Some(_) => Ok(()),
            None => Err(Error::usage("allocation = owl needs text to measure outliers on", NAME_TEXT)),
        }
    }

    /// Refuses a budget without calibration text, or without exactly one limit.
    fn refuse_budget(&self) -> Result<()> {
        let Some(budget) = &self.budget else { return Ok(()) };
        if !self.has_text() {
            return Err(Error::usage("a budget needs text to measure on what linears lose", NAME_TEXT));
        }
        match (budget.bpw, budget.size) {
            (Some(bpw), None) if bpw > 0.0 && bpw.is_finite() => Ok(()),
            (None, Some(_)) => Ok(()),
            _ => Err(Error::usage("a budget is bits per weight, or a size", "for example --target-bpw 4.5")),
        }
    }

    /// Refuses statistics of an earlier run for methods that they do not suffice for: they are of the original model.
    fn refuse_known(&self, calibration: &Calibration, stages: &[Stage]) -> Result<()> {
        let refuse = |why: &str| {
            let what = format!("{} from statistics: {why}", self.method_names());
            Err(Error::usage(what, "name a text with --data instead"))
        };
        if !calibration.data.is_empty() {
            return refuse("there is text, too");
        }
        if stages.iter().any(Stage::trains) {
            return refuse("it learns from what blocks make of a text");
        }
        match stages {
            [Stage::Quantize(_), ..] => Ok(()),
            [first, ..] if !first.needs().any() && first.allocation() == Allocation::Uniform => {
                refuse("weights are rewritten before any of them could be used")
            }
            [_, others @ ..] if others.iter().any(|stage| stage.needs().any()) => {
                refuse("those after the first stage need some of what it makes of the inputs")
            }
            _ => Ok(()),
        }
    }

    /// Refuses static scales of activations without calibration text to measure them on.
    fn refuse_unmeasured(&self, activations: Option<ActivationScheme>) -> Result<()> {
        let inputs = activations.and_then(ActivationScheme::measured).and(self.scheme.as_deref());
        let cache = self.kv_cache.as_ref().map(|_| "kv_cache");
        match inputs.or(cache).filter(|_| !self.has_text()) {
            None => Ok(()),
            Some(what) => Err(Error::usage(format!("{what}: its scales are measured on text"), NAME_TEXT)),
        }
    }

    /// Builds the stages. Refuses an order that makes no sense, and a scheme that any of the stages does not support.
    fn build_stages(&self, schemes: &[Scheme]) -> Result<Vec<Stage>> {
        let mut built: Vec<(&Def, Stage)> = Vec::new();
        for stage in &self.stages {
            let def = find_method(&stage.method)?;
            let stage = (def.build)(&stage.parameters)?;
            refuse_out_of_order(&built, def, &stage)?;
            built.push((def, stage));
        }
        let has = |kind: fn(&Stage) -> bool| built.iter().any(|(_, stage)| kind(stage));
        let only_prunes = schemes.is_empty() && has(|stage| matches!(stage, Stage::Prune(_)));
        if !has(|stage| matches!(stage, Stage::Quantize(_))) && !only_prunes {
            let place = built.iter().position(|(_, stage)| matches!(stage, Stage::Compensate(_)));
            let def = find_method(DEFAULT_METHOD)?;
            built.insert(place.unwrap_or(built.len()), (def, Stage::Quantize(default_method())));
        }
        built.iter().try_for_each(|(def, _)| refuse_schemes(def, schemes))?;
        Ok(built.into_iter().map(|(_, stage)| stage).collect())
    }

    fn format_name(&self, scheme: Option<&Scheme>) -> &str {
        match (&self.format, scheme.map(|scheme| scheme.number)) {
            (Some(name), _) => name,
            (None, None) if self.kv_cache.is_some() => "compressed-tensors",
            (None, Some(Number::Ggml(_))) => "gguf",
            (None, Some(Number::Nf4 | Number::Fp8(Fp8::E5M2)) | None) => "dense",
            (None, Some(_)) => "compressed-tensors",
        }
    }
}

/// Refuses a format that cannot hold what the stages make.
fn refuse_format(request: &Request) -> Result<()> {
    let Request { format, activations, kv_cache, .. } = request;
    let capabilities = format.capabilities();
    if request.quantizer().reorders_groups() && !capabilities.reordered_groups {
        let what = "act_order = dynamic: no format here stores columns that are grouped out of order";
        return Err(Error::usage(what, "act_order = static loses no more; or write --format dense"));
    }
    if activations.is_some() && !capabilities.activations {
        return Err(Error::usage(
            format!("format {} says nothing of how inputs are quantized", format.name()),
            "compressed-tensors does; w8a16 is w8a8 with the inputs left alone",
        ));
    }
    if kv_cache.is_some() && !capabilities.kv_cache {
        return Err(Error::usage(
            format!("format {} has no place for the scales of cached keys and values", format.name()),
            "compressed-tensors has; leave --kv-cache out for the others",
        ));
    }
    if request.adapter_rank().is_some() { refuse_compensation(request.quantizer(), *format) } else { Ok(()) }
}

/// Splits the stages that make the model smaller from the others: they come first.
fn split_shapes(stages: Vec<Stage>) -> (Vec<Shape>, Vec<Stage>) {
    let (mut shapes, mut others) = (Vec::new(), Vec::new());
    for stage in stages {
        match stage {
            Stage::Shape(shape) => shapes.push(shape),
            other => others.push(other),
        }
    }
    (shapes, others)
}

/// Refuses formats and methods that a compensating stage does not work with.
fn refuse_compensation(method: &dyn Quantize, format: &dyn Format) -> Result<()> {
    if format.capabilities().single_file {
        let what =
            "eora and lorc write a LoRA adapter in PEFT's form, and llama.cpp takes adapters as GGUF files";
        return Err(Error::usage(what, "choose a format that writes a folder, such as compressed-tensors"));
    }
    if method.scope() == Scope::Block && !method.trains() {
        let what = "a method that scales weights as it rounds them leaves no error to make up for";
        return Err(Error::usage(what, "in the place of awq: --method awq-scale,mse,eora"));
    }
    Ok(())
}

/// The quantizing stage if it works row by row, else the default method.
fn rowwise(stages: &[Stage]) -> Arc<dyn Quantize> {
    let by_rows = stages.iter().find_map(|stage| match stage {
        Stage::Quantize(method) if method.scope() == Scope::Rows => Some(Arc::clone(method)),
        _ => None,
    });
    by_rows.unwrap_or_else(default_method)
}

/// The method of a recipe without a quantizing stage: [`DEFAULT_METHOD`].
fn default_method() -> Arc<dyn Quantize> {
    Arc::new(Rtn::default())
}

fn find_method(name: &str) -> Result<&'static Def> {
    let names: Vec<&str> = METHODS.iter().map(|def| def.name).collect();
    METHODS.iter().find(|def| same(def.name, name)).ok_or_else(|| unknown("method", name, &names))
}

fn refuse_schemes(def: &Def, schemes: &[Scheme]) -> Result<()> {
    schemes.iter().try_for_each(|scheme| match (def.supports)(scheme) {
        Ok(()) => Ok(()),
        Err(why) => Err(Error::usage(format!("method {} cannot work with {scheme}", def.name), why)),
    })
}

/// Refuses a stage that cannot follow those before it: dense weights are edited before they are quantized, and the error of
/// codes is corrected last. What is zero stays so: it is pruned once, and not mixed with others.
fn refuse_out_of_order(before: &[(&Def, Stage)], def: &Def, stage: &Stage) -> Result<()> {
    let pruning = before.iter().find(|(_, stage)| matches!(stage, Stage::Prune(_)));
    match (pruning, stage) {
        (Some((pruning, _)), Stage::Prune(_)) => {
            let what = format!("stages {} and {} both set weights to zero", pruning.name, def.name);
            return Err(Error::usage(what, "leave one of them out"));
        }
        (Some((pruning, _)), Stage::Rewrite(method)) if !method.keeps_zeros() => {
            let what = format!("stage {} mixes the columns that {} has set to zero", def.name, pruning.name);
            return Err(Error::usage(what, format!("put {} in front of {}", def.name, pruning.name)));
        }
        _ => {}
    }
    if let (Some((last, before)), Stage::Shape(_)) = (before.last(), stage)
        && !matches!(before, Stage::Shape(_))
    {
        let what = format!("stage {} comes after {}, and makes the model smaller", def.name, last.name);
        return Err(Error::usage(what, format!("put {} in front", def.name)));
    }
    let does = match before.last() {
        None | Some((_, Stage::Shape(_) | Stage::Rewrite(_) | Stage::Prune(_))) => return Ok(()),
        Some((_, Stage::Quantize(_))) if matches!(stage, Stage::Compensate(_)) => return Ok(()),
        Some((_, Stage::Quantize(_))) => "quantizes",
        Some((_, Stage::Compensate(_))) => "makes up for quantization",
    };
    let last = before.last().map_or("", |(last, _)| last.name);
    Err(Error::usage(
        format!("stage {} comes after {last}, which {does}", def.name),
        "a recipe's stages rewrite weights first, quantize them once, and make up for the error last",
    ))
}

fn find_format(name: &str) -> Result<&'static dyn Format> {
    FORMATS.iter().copied().find(|format| same(format.name(), name)).ok_or_else(|| {
        unknown("format", name, &FORMATS.iter().map(|format| format.name()).collect::<Vec<_>>())
    })
}

fn parse_dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(unknown("dtype", name, &["f32", "f16", "bf16"])),
    }
}

fn parse_kv_cache(name: &str) -> Result<EightBits> {
    let found = EightBits::ALL.into_iter().find(|number| number.name() == name);
    found.ok_or_else(|| unknown("kv_cache", name, &EightBits::ALL.map(EightBits::name)))
}

#[cfg(test)]
mod tests;
