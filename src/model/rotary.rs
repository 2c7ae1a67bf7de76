//! Rotary position embedding (Su et al., 2021, <https://arxiv.org/abs/2104.09864>): from [`Rope`] to the angles of a batch.
//!
//! Frequencies are computed in f32 as transformers does (`modeling_rope_utils.py`), so that angles agree at long contexts too.

use super::rope::{LongRope, Rope, Scaling, Yarn};
use crate::backend::{Rotations, Span};
use crate::error::{Error, Result};

/// The frequencies of a model's rotations.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Columns of a head; those beyond twice the frequencies stay as they are.
    head_dim: usize,
    frequencies: Frequencies,
    /// Multiplies cosines and sines.
    attention_factor: f32,
}

#[derive(Debug, Clone, PartialEq)]
enum Frequencies {
    /// The same at every length.
    Fixed(Vec<f32>),
    /// LongRoPE: different ones beyond the original context.
    Long { short: Vec<f32>, long: Vec<f32>, original: usize },
    /// Dynamic NTK: the base grows with the sequence beyond the trained context.
    Dynamic { theta: f64, factor: f64, rotated: usize, context: usize },
}

impl Rotary {
    /// Makes the rotations of heads of `head_dim` columns, in a model made for `context` positions.
    pub(crate) fn new(rope: &Rope, head_dim: usize, context: Option<usize>) -> Result<Rotary> {
        let partial = rope.partial.unwrap_or(1.0);
        let rotated = if (0.0..=1.0).contains(&partial) { (head_dim as f64 * partial) as usize } else { 0 };
        if rotated == 0 || rotated.next_multiple_of(2) > head_dim {
            let what = format!("config.json: rotates {rotated} of {head_dim} columns of a head");
            return Err(Error::unsupported(
                what,
                "check head_dim and partial_rotary_factor: pairs are rotated",
            ));
        }
        let (frequencies, attention_factor) = scaled(rope, rotated, context)?;
        Ok(Rotary { head_dim, frequencies, attention_factor })
    }

    /// Returns cosines and sines of each row of a batch.
    pub(crate) fn rotations(&self, spans: &[Span]) -> Rotations {
        let mut rotations = Rotations { head_dim: self.head_dim, ..Rotations::default() };
        for span in spans {
            let frequencies = self.frequencies.at(span.past + span.len);
            rotations.half = frequencies.len();
            for position in span.past..span.past + span.len {
                for frequency in frequencies.iter() {
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    rotations.cos.push(cos * self.attention_factor);
                    rotations.sin.push(sin * self.attention_factor);
                }
            }
        }
        rotations
    }
}

impl Frequencies {
    /// Returns those for a sequence of so many tokens.
    fn at(&self, len: usize) -> std::borrow::Cow<'_, [f32]> {
        match self {
            Frequencies::Fixed(frequencies) => frequencies.into(),
            Frequencies::Long { short, long, original } => {
                if len > *original {
                    long.into()
                } else {
                    short.into()
                }
            }
            Frequencies::Dynamic { theta, factor, rotated, context } => {
                let len = len.max(*context) as f64;
                let stretch = factor * len / *context as f64 - (factor - 1.0);
                let exponent = *rotated as f64 / (*rotated as f64 - 2.0);
                inverse(theta * stretch.powf(exponent), *rotated).into()
            }
        }
    }
}

/// Returns θ^(−2i/rotated). Of an odd number of columns, transformers rotates one more.
fn inverse(theta: f64, rotated: usize) -> Vec<f32> {
    (0..rotated.div_ceil(2)).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / rotated as f32)).collect()
}

fn scaled(rope: &Rope, rotated: usize, context: Option<usize>) -> Result<(Frequencies, f32)> {
    let plain = inverse(rope.theta, rotated);
    let divide = |by: &dyn Fn(usize) -> f32| plain.iter().enumerate().map(|(i, f)| f / by(i)).collect();
    Ok(match &rope.scaling {
        None => (Frequencies::Fixed(plain), 1.0),
        Some(Scaling::Linear { factor }) => (Frequencies::Fixed(divide(&|_| *factor as f32)), 1.0),
        Some(Scaling::Llama3(llama3)) => {
            let factors = llama3.factors(rope.theta, rotated);
            (Frequencies::Fixed(divide(&|i| factors[i])), 1.0)
        }
        Some(Scaling::Dynamic { factor }) => {
            let context = context.ok_or_else(|| missing("max_position_embeddings"))?;
            let dynamic = Frequencies::Dynamic { theta: rope.theta, factor: *factor, rotated, context };
            (dynamic, 1.0)
        }
        Some(Scaling::Yarn(yarn)) => yarn_frequencies(yarn, rope.theta, &plain, context)?,
        Some(Scaling::LongRope(long)) => long_frequencies(long, &plain, context)?,
        Some(Scaling::Other(kind)) => {
            let what = format!("config.json: rope scaling `{kind}`");
            return Err(Error::unsupported(what, "known: linear, dynamic, llama3, yarn, longrope"));
        }
    })
}

fn missing(key: &str) -> Error {
    Error::unsupported(format!("config.json: rope scaling without {key}"), "add it: frequencies depend on it")
}

/// Interpolates low frequencies, keeps high ones, ramps between (YaRN, equations 20–23).
fn yarn_frequencies(
    yarn: &Yarn,
    theta: f64,
    plain: &[f32],
    context: Option<usize>,
) -> Result<(Frequencies, f32)> {
    let rotated = 2 * plain.len();
    let original = yarn.original.or(context.map(|c| c as u64));
    let original = original.ok_or_else(|| missing("original_max_position_embeddings"))? as f64;
    let factor = match (yarn.factor, context) {
        (Some(factor), _) => factor,
        (None, Some(context)) => context as f64 / original,
        (None, None) => return Err(missing("factor")),
    };
    // The dimension whose wavelength turns so often within the original context.
    let dimension =
        |turns: f64| rotated as f64 * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (dimension(yarn.beta_fast), dimension(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(rotated as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let ramp = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
    let mixed = |(i, f): (usize, &f32)| f / factor as f32 * ramp(i) + f * (1.0 - ramp(i));
    let frequencies = plain.iter().enumerate().map(mixed).collect();
    Ok((Frequencies::Fixed(frequencies), yarn.attention(factor) as f32))
}

fn long_frequencies(long: &LongRope, plain: &[f32], context: Option<usize>) -> Result<(Frequencies, f32)> {
    let original = long.original.map(|o| o as usize).or(context);
    let original = original.ok_or_else(|| missing("original_max_position_embeddings"))?;
    let divided = |factors: &[f32]| {
        if factors.len() != plain.len() {
            let what =
                format!("config.json: {} longrope factors for {} frequencies", factors.len(), plain.len());
            return Err(Error::unsupported(what, "check rope_scaling's short_factor and long_factor"));
        }
        Ok(plain.iter().zip(factors).map(|(f, by)| f / by).collect())
    };
    let (short, long_divided) = (divided(&long.short)?, divided(&long.long)?);
    let frequencies = Frequencies::Long { short, long: long_divided, original };
    Ok((frequencies, long.attention(original, context) as f32))
}
