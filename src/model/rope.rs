//! Rotary position settings: config.json's two spellings of them, and the per-frequency factors of Llama 3.
//!
//! transformers 4 writes `rope_theta` and `rope_scaling`; transformers 5 writes `rope_parameters`, for Gemma 3 one per
//! kind of layer: the one of full attention is read here.

use serde_json::{Map, Value, json};

use super::settings::Settings;
use crate::error::Result;

/// The base if config.json gives none.
const DEFAULT_THETA: f64 = 10_000.0;

/// The rotations of positions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Part of each head that is rotated; `None` for all of it.
    pub partial: Option<f64>,
    /// The stretching of frequencies beyond the training length.
    pub scaling: Option<Scaling>,
}

/// The stretching of frequencies beyond the training length.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scaling {
    /// All by one factor.
    Linear {
        /// Divides positions.
        factor: f64,
    },
    /// Dynamic NTK: the base grows with the sequence.
    Dynamic {
        /// Stretch of the context.
        factor: f64,
    },
    /// YaRN.
    Yarn(Yarn),
    /// Llama 3.1's, by wavelength.
    Llama3(Llama3),
    /// LongRoPE.
    LongRope(LongRope),
    /// A type that llmc does not know.
    Other(String),
}

/// Llama 3.1's scaling: long wavelengths are divided by `factor`, short ones kept, those between interpolated.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub(crate) struct Llama3 {
    pub factor: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
    /// Context before stretching.
    pub original: u64,
}

/// YaRN (Peng et al., 2023, <https://arxiv.org/abs/2309.00071>): low frequencies are interpolated, high ones kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Yarn {
    /// Stretch of the context; where it is not given, the whole context over the original one.
    pub factor: Option<f64>,
    /// Context before stretching.
    pub original: Option<u64>,
    /// Turns within the original context above which a frequency is kept.
    pub beta_fast: f64,
    /// Turns below which it is interpolated.
    pub beta_slow: f64,
    /// The factor of cosines and sines, where given.
    pub attention_factor: Option<f64>,
    /// The ratio of two temperatures takes its place (DeepSeek).
    pub mscale: Option<[f64; 2]>,
    /// True if the bounds of the ramp are whole dimensions.
    pub truncate: bool,
}

impl Yarn {
    /// Returns the scaling with the paper's settings.
    pub(crate) fn new(factor: f64, original: Option<u64>) -> Yarn {
        let (factor, attention_factor, mscale) = (Some(factor), None, None);
        Yarn { factor, original, beta_fast: 32.0, beta_slow: 1.0, attention_factor, mscale, truncate: true }
    }

    /// Returns the factor of cosines and sines: the paper's temperature, 0.1·ln(factor) + 1, unless one is given.
    pub(crate) fn attention(&self, factor: f64) -> f64 {
        let temperature = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        self.attention_factor.unwrap_or_else(|| match self.mscale {
            Some([mscale, all]) => temperature(mscale) / temperature(all),
            None => temperature(1.0),
        })
    }
}

/// LongRoPE (Ding et al., 2024, <https://arxiv.org/abs/2402.13753>): a divisor per frequency.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LongRope {
    /// Divisors up to the original context, [rotated/2].
    pub short: Vec<f32>,
    /// Divisors beyond it, [rotated/2].
    pub long: Vec<f32>,
    /// Stretch of the context; where it is not given, the whole context over the original one.
    pub factor: Option<f64>,
    /// Context before stretching.
    pub original: Option<u64>,
    /// The factor of cosines and sines, where given.
    pub attention_factor: Option<f64>,
}

impl LongRope {
    /// Returns the scaling by the divisors alone: GGUF stores nothing else of it.
    pub(crate) fn new(short: Vec<f32>, long: Vec<f32>) -> LongRope {
        LongRope { short, long, factor: None, original: None, attention_factor: None }
    }

    /// Returns the factor of cosines and sines in a model of `context` positions: √(1 + ln(factor)/ln(original)), unless one
    /// is given.
    pub(crate) fn attention(&self, original: usize, context: Option<usize>) -> f64 {
        let stretched = context.map_or(1.0, |context| context as f64 / original as f64);
        let factor = self.factor.unwrap_or(stretched);
        let default = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
        self.attention_factor.unwrap_or(default)
    }
}

impl Rope {
    /// Reads either spelling.
    pub(crate) fn from_config(config: &Value) -> Rope {
        Rope::read(config, DEFAULT_THETA)
    }

    /// Reads either spelling, with the base of an architecture whose config.json may leave it out.
    pub(crate) fn read(config: &Value, theta: f64) -> Rope {
        let parameters = config.get("rope_parameters").filter(|p| p.is_object());
        let parameters = parameters.map(|p| p.get("full_attention").unwrap_or(p));
        let scaling = parameters.or_else(|| config.get("rope_scaling").filter(|s| s.is_object()));
        let number = |keys: &[&str]| {
            let inner = keys.iter().find_map(|key| scaling?.get(*key)?.as_f64());
            inner.or_else(|| keys.iter().find_map(|key| config.get(*key)?.as_f64()))
        };
        Rope {
            theta: number(&["rope_theta", "rotary_emb_base"]).unwrap_or(theta),
            partial: number(&["partial_rotary_factor", "rotary_pct"]),
            scaling: scaling.and_then(|s| Scaling::from_json(s, config)),
        }
    }

    /// Refuses settings of another type than theirs: read as absent, they would leave a default in their place.
    ///
    /// # Errors
    /// A number that is text or not above 0, a scaling that is no object, Llama 3's scaling without its factors.
    pub(crate) fn check(settings: &Settings) -> Result<()> {
        const NUMBERS: [&str; 5] =
            ["rope_theta", "rotary_emb_base", "partial_rotary_factor", "rotary_pct", "rope_local_base_freq"];
        const LLAMA3: [&str; 3] = ["factor", "low_freq_factor", "high_freq_factor"];
        const SCALING: [&str; 5] =
            ["factor", "beta_fast", "beta_slow", "attention_factor", "original_max_position_embeddings"];
        settings.positive_or_absent(&NUMBERS)?;
        settings.optional(&["original_max_position_embeddings"])?;
        for key in ["rope_parameters", "rope_scaling"] {
            let Some(scaling) = settings.object(key)? else { continue };
            let inner = scaling.object("full_attention")?.unwrap_or(scaling);
            if let Some(local) = scaling.object("sliding_attention")? {
                local.positive_or_absent(&NUMBERS)?;
            }
            inner.positive_or_absent(&NUMBERS)?;
            inner.positive_or_absent(&SCALING)?;
            inner.positive_or_absent(&LLAMA3)?;
            ["mscale", "mscale_all_dim"].iter().try_for_each(|key| inner.number(&[key]).map(drop))?;
            inner.flag("truncate", true)?;
            ["short_factor", "long_factor"].iter().try_for_each(|key| inner.factors_or_absent(key))?;
            let kind = match inner.text("rope_type")? {
                Some(kind) => Some(kind),
                None => inner.text("type")?,
            };
            if kind == Some("llama3") {
                LLAMA3.iter().try_for_each(|key| {
                    inner.number(&[key])?.map(drop).ok_or_else(|| inner.wrong(key, "a number"))
                })?;
            }
        }
        Ok(())
    }

    /// Reads the rotations of Gemma 3's local layers, which nothing stretches.
    pub(crate) fn local(config: &Value) -> Rope {
        let new = config.get("rope_parameters").and_then(|p| p.get("sliding_attention")?.get("rope_theta"));
        let theta = new.or_else(|| config.get("rope_local_base_freq")).and_then(Value::as_f64);
        Rope { theta: theta.unwrap_or(DEFAULT_THETA), partial: None, scaling: None }
    }

    /// Writes transformers 4's spelling, which transformers 5 reads too.
    pub(crate) fn write(&self, config: &mut Map<String, Value>) {
        config.insert("rope_theta".into(), self.theta.into());
        let scaling = self.scaling.as_ref().map_or(Value::Null, Scaling::to_json);
        config.insert("rope_scaling".into(), scaling);
        if let Some(partial) = self.partial {
            config.insert("partial_rotary_factor".into(), partial.into());
        }
    }
}

impl Scaling {
    fn from_json(scaling: &Value, config: &Value) -> Option<Scaling> {
        let Some(kind) = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str)
        else {
            return scaling.get("factor").map(|_| Scaling::Other("without a type".to_owned()));
        };
        let number = |key: &str| scaling.get(key).and_then(Value::as_f64);
        let original = scaling.get("original_max_position_embeddings").and_then(Value::as_u64);
        let original = original.or_else(|| config.get("original_max_position_embeddings")?.as_u64());
        let factor = number("factor").unwrap_or(1.0);
        Some(match kind {
            "default" => return None,
            "linear" => Scaling::Linear { factor },
            "dynamic" => Scaling::Dynamic { factor },
            "yarn" => Scaling::Yarn(Yarn {
                factor: number("factor"),
                beta_fast: number("beta_fast").unwrap_or(32.0),
                beta_slow: number("beta_slow").unwrap_or(1.0),
                attention_factor: number("attention_factor"),
                mscale: number("mscale").zip(number("mscale_all_dim")).map(|(m, all)| [m, all]),
                truncate: scaling.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                original,
            }),
            "llama3" => Scaling::Llama3(Llama3 {
                factor,
                low_freq_factor: number("low_freq_factor").unwrap_or(1.0),
                high_freq_factor: number("high_freq_factor").unwrap_or(4.0),
                original: original.unwrap_or(8192),
            }),
            "longrope" | "su" => Scaling::LongRope(LongRope {
                short: scaling.get("short_factor").and_then(factors).unwrap_or_default(),
                long: scaling.get("long_factor").and_then(factors).unwrap_or_default(),
                factor: number("factor"),
                attention_factor: number("attention_factor"),
                original,
            }),
            other => Scaling::Other(other.to_owned()),
        })
    }

    fn to_json(&self) -> Value {
        match self {
            Scaling::Linear { factor } => {
                json!({ "type": "linear", "rope_type": "linear", "factor": factor })
            }
            Scaling::Dynamic { factor } => {
                json!({ "type": "dynamic", "rope_type": "dynamic", "factor": factor })
            }
            Scaling::Yarn(yarn) => json!({
                "type": "yarn",
                "rope_type": "yarn",
                "factor": yarn.factor,
                "original_max_position_embeddings": yarn.original,
                "beta_fast": yarn.beta_fast,
                "beta_slow": yarn.beta_slow,
                "attention_factor": yarn.attention_factor,
                "mscale": yarn.mscale.map(|[mscale, _]| mscale),
                "mscale_all_dim": yarn.mscale.map(|[_, all]| all),
                "truncate": yarn.truncate,
            }),
            Scaling::Llama3(llama3) => json!({
                "rope_type": "llama3",
                "factor": llama3.factor,
                "low_freq_factor": llama3.low_freq_factor,
                "high_freq_factor": llama3.high_freq_factor,
                "original_max_position_embeddings": llama3.original,
            }),
            Scaling::LongRope(long) => json!({
                "type": "longrope",
                "rope_type": "longrope",
                "short_factor": decimals(&long.short),
                "long_factor": decimals(&long.long),
                "factor": long.factor,
                "original_max_position_embeddings": long.original,
                "attention_factor": long.attention_factor,
            }),
            Scaling::Other(kind) => json!({ "type": kind, "rope_type": kind }),
        }
    }
}

fn factors(list: &Value) -> Option<Vec<f32>> {
    list.as_array()?.iter().map(|factor| factor.as_f64().map(|f| f as f32)).collect()
}

/// Returns the shortest decimals that read back as these f32: 1.05, not 1.0499999523162842.
fn decimals(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| value.to_string().parse().unwrap_or(f64::from(*value))).collect()
}

impl Llama3 {
    /// Returns the divisor of each of `rotated`/2 frequencies: llama.cpp's `rope_freqs.weight`.
    ///
    /// Source: `LlamaModel.generate_extra_tensors`,
    /// <https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py>.
    pub(crate) fn factors(&self, theta: f64, rotated: usize) -> Vec<f32> {
        let wavelength = |i: usize| std::f64::consts::TAU * theta.powf((2 * i) as f64 / rotated as f64);
        (0..rotated.div_ceil(2)).map(|i| self.divisor(wavelength(i)) as f32).collect()
    }

    fn divisor(&self, wavelength: f64) -> f64 {
        let original = self.original as f64;
        if wavelength < original / self.high_freq_factor {
            return 1.0;
        }
        if wavelength > original / self.low_freq_factor {
            return self.factor;
        }
        let span = self.high_freq_factor - self.low_freq_factor;
        let smooth = (original / wavelength - self.low_freq_factor) / span;
        1.0 / ((1.0 - smooth) / self.factor + smooth)
    }

    /// Returns the settings that these factors were made with, if they are those of a Llama 3.1 or later. GGUF stores the
    /// factors only.
    pub(crate) fn recognize(factors: &[f32], theta: f64) -> Option<Llama3> {
        let factor = f64::from(*factors.last()?);
        let released = Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192 };
        let expected = released.factors(theta, factors.len() * 2);
        let same = factors.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs());
        same.then_some(released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_mean_the_same() {
        let old = json!({ "rope_theta": 5e5, "rope_scaling": { "type": "linear", "factor": 4.0 } });
        let new = json!({ "rope_parameters": { "rope_theta": 5e5, "rope_type": "linear", "factor": 4.0 } });
        let expected = Rope { theta: 5e5, partial: None, scaling: Some(Scaling::Linear { factor: 4.0 }) };
        assert_eq!(Rope::from_config(&old), expected);
        assert_eq!(Rope::from_config(&new), expected);
        let none = Rope::from_config(&json!({ "rope_parameters": { "rope_type": "default" } }));
        assert_eq!(none, Rope { theta: 1e4, partial: None, scaling: None });
        let nested = json!({ "rope_parameters": { "full_attention": { "rope_theta": 1e6 },
            "sliding_attention": { "rope_theta": 1e4 } } });
        assert_eq!(Rope::from_config(&nested).theta, 1e6);
    }

    #[test]
    fn what_is_written_reads_back() {
        let scalings = [
            Scaling::Linear { factor: 2.0 },
            Scaling::Dynamic { factor: 2.0 },
            Scaling::Yarn(Yarn { mscale: Some([1.0, 0.5]), ..Yarn::new(4.0, Some(32768)) }),
            Scaling::Llama3(LLAMA32),
            Scaling::LongRope(LongRope::new(vec![1.0, 1.05], vec![1.5, 60.25])),
        ];
        for scaling in scalings {
            let rope = Rope { theta: 1e6, partial: Some(0.25), scaling: Some(scaling) };
            let mut config = Map::new();
            rope.write(&mut config);
            assert_eq!(Rope::from_config(&config.into()), rope);
        }
    }

    const LLAMA32: Llama3 =
        Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192 };

    #[test]
    fn llama3_factors_are_those_of_the_published_rule_and_are_recognized() {
        let factors = LLAMA32.factors(5e5, 64);
        // By hand: frequency 0 has wavelength 2π, kept; frequency 31 has 2π·5e5^(62/64), far beyond 8192: divided.
        assert_eq!((factors[0], factors[31], factors.len()), (1.0, 32.0, 32));
        // Frequency 16: wavelength 2π·√5e5 = 4442.9, smooth = (8192/4442.9 − 1)/3 = 0.28128.
        assert!((factors[16] - 1.0 / ((1.0 - 0.28128) / 32.0 + 0.28128)).abs() < 1e-3);
        assert_eq!(Llama3::recognize(&factors, 5e5), Some(LLAMA32));
        assert_eq!(Llama3::recognize(&factors, 1e4), None);
        assert_eq!(Llama3::recognize(&[], 1e4), None);
    }
}
