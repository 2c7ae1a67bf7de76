//! The flags that say what to calibrate on, of every command that does.

use std::path::PathBuf;

use clap::Args;

use crate::backend::Device;
use crate::error::{Error, Result};
use crate::recipe::Calibration;

/// The flags of a calibration set.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CalibrationArguments {
    /// Calibrate on this: a text, .jsonl, .csv, .parquet, a hub dataset (org/name:split), or self, which the model writes; with a
    /// weight: 0.7*FILE (repeatable)
    #[arg(long, value_name = "SOURCE")]
    data: Vec<String>,
    /// Calibration sequences [default: 128]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Tokens of a calibration sequence [default: 512]
    #[arg(long, value_name = "N")]
    seq_len: Option<usize>,
    /// Take each document as a sequence by itself, instead of joining them
    #[arg(long, hide_short_help = true)]
    no_packing: bool,
    /// Chooses other sequences [default: 0]
    #[arg(long, value_name = "N", hide_short_help = true)]
    seed: Option<u32>,
    /// Show experts that fewer tokens are sent to all tokens instead [default: 128]
    #[arg(long, value_name = "N", hide_short_help = true)]
    expert_tokens: Option<u64>,
    /// Device that runs the model for calibration: cpu, cuda, cuda:NUMBER (feature candle-cuda); candle runs the code of a GPU on
    /// the CPU
    #[arg(long, value_name = "DEVICE", default_value_t, hide_short_help = true)]
    pub device: Device,
    /// End with exit code 3 where an expert is sent fewer tokens, after writing the output
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub min_coverage: Option<u64>,
}

/// The flags of calibration data: text or statistics.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct KnowledgeArguments {
    /// Text.
    #[command(flatten)]
    pub calibration: CalibrationArguments,
    /// In the place of --data: what `llmc calibrate` has gathered, or an importance matrix (repeatable)
    #[arg(long, value_name = "PATH", conflicts_with = "data")]
    stats: Vec<PathBuf>,
}

impl KnowledgeArguments {
    /// Returns true if anything is named.
    pub(crate) fn any(&self) -> bool {
        self.calibration.names_data() || !self.stats.is_empty()
    }

    /// Refuses flags about a text where there is none.
    pub(crate) fn refuse_idle(&self) -> Result<()> {
        let CalibrationArguments { samples, seq_len, no_packing, seed, expert_tokens, .. } =
            &self.calibration;
        let idle = [
            ("--samples", samples.is_some()),
            ("--seq-len", seq_len.is_some()),
            ("--no-packing", *no_packing),
            ("--seed", seed.is_some()),
            ("--expert-tokens", expert_tokens.is_some()),
        ];
        match idle.iter().find(|(_, given)| *given && !self.calibration.names_data()) {
            Some((flag, _)) => {
                let what = format!("{flag} says how a text is read, and there is none");
                Err(Error::usage(what, "name one with --data FILE; --data self lets the model write it"))
            }
            None => Ok(()),
        }
    }

    /// Returns the settings of the flags, over those of the recipe or the default.
    pub(crate) fn over(&self, recipe: Calibration) -> Calibration {
        let calibration = self.calibration.over(recipe);
        match (self.stats.is_empty(), self.calibration.names_data()) {
            (false, _) => Calibration { statistics: self.stats.clone(), data: Vec::new(), ..calibration },
            (true, true) => Calibration { statistics: Vec::new(), ..calibration },
            (true, false) => calibration,
        }
    }
}

impl CalibrationArguments {
    /// Returns true if a source is named.
    fn names_data(&self) -> bool {
        !self.data.is_empty()
    }

    /// Returns the settings of the flags, over those of the recipe or the default.
    pub(crate) fn over(&self, recipe: Calibration) -> Calibration {
        Calibration {
            data: if self.data.is_empty() { recipe.data } else { self.data.clone() },
            statistics: recipe.statistics,
            samples: self.samples.unwrap_or(recipe.samples),
            seq_len: self.seq_len.unwrap_or(recipe.seq_len),
            packing: recipe.packing && !self.no_packing,
            seed: self.seed.unwrap_or(recipe.seed),
            expert_tokens: self.expert_tokens.unwrap_or(recipe.expert_tokens),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        calibration: CalibrationArguments,
    }

    fn parse(flags: &str) -> CalibrationArguments {
        let words = std::iter::once("llmc").chain(flags.split_whitespace());
        Command::try_parse_from(words).unwrap().calibration
    }

    #[test]
    fn flags_come_before_the_recipe() {
        let recipe = Calibration { data: vec!["a".into()], samples: 7, ..Calibration::default() };
        assert_eq!(parse("").over(recipe.clone()), recipe);
        assert!(!parse("--samples 3").names_data());
        let flags = parse("--data 2*b --data self --seq-len 64 --no-packing --seed 9");
        let expected = Calibration {
            data: vec!["2*b".into(), "self".into()],
            samples: 7,
            seq_len: 64,
            packing: false,
            seed: 9,
            ..Calibration::default()
        };
        assert!(flags.names_data());
        assert_eq!(flags.over(recipe), expected);
    }

    #[test]
    fn statistics_take_the_place_of_text() {
        let arguments = |stats: &[&str], data: &[&str]| KnowledgeArguments {
            stats: stats.iter().map(PathBuf::from).collect(),
            calibration: CalibrationArguments {
                data: data.iter().map(|name| (*name).to_owned()).collect(),
                ..CalibrationArguments::default()
            },
        };
        let text = Calibration { data: vec!["a".into()], ..Calibration::default() };
        let known = Calibration { statistics: vec!["s".into()], ..Calibration::default() };
        assert_eq!(arguments(&["s"], &[]).over(text.clone()), known);
        assert_eq!(arguments(&[], &["a"]).over(known.clone()), text);
        assert_eq!(arguments(&[], &[]).over(known.clone()), known);
        assert!(arguments(&["s"], &[]).any() && !arguments(&[], &[]).any());
    }
}
