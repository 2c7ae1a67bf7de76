//! `depth`: whole layers go.
//!
//! **What.** Three choices. `influence`: the influence of a layer is 1 − cos(x, y), x being its input and y its output, averaged over
//! the tokens of the calibration set; the layers of least influence go. `contiguous`: the angle between the input of a run of n layers
//! and its output, at the last token of each sequence; the run of the smallest angle goes, never with the last layer. `greedy` (the
//! default): one layer after the other, each time the one whose loss changes the predictions least, by the KL divergence from
//! the whole model on a held-out part of the calibration set. All are tried once; then again those that cost least.
//!
//! The layer before those that go makes up for them (`correct`): the last linear of its feed-forward network, of inputs x, becomes
//! W + Σ e·xᵀ·(Σ x·xᵀ + λ·I)⁻¹, e being what the hidden states h lack of those behind the layers that have gone. Each token is divided by ‖h‖:
//! the next norm does so, and a few tokens have states a thousand times as large as others. Mixtures of experts, and networks
//! with a norm behind them, stay as they are.
//!
//! **When.** Every engine runs the output faster, by the share of layers. Answers to questions of fact survive it; generation of
//! long texts does much less: heal the output by training.
//!
//! **Cost.** One pass over the calibration set; for `greedy`, instead, for each layer that goes a pass over a few sequences for each
//! layer that is tried. The correction takes two passes.
//!
//! ```text
//! llmc prune --method depth --layers 6 --data corpus.jsonl model/
//! ```
//!
//! References: Men et al. 2024, "ShortGPT", <https://arxiv.org/abs/2403.03853>, equation 1; Gromov et al. 2024, "The Unreasonable
//! Ineffectiveness of the Deeper Layers", <https://arxiv.org/abs/2403.17887>, section 3; Song et al. 2024, "SLEB",
//! <https://arxiv.org/abs/2402.09025>, algorithm 1.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::recipe::Kept;
use crate::stage::{self, Amount, Def, Depth, LayerScore, Shape, Stage};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "depth",
    summary: "take out the layers that matter least: smaller and faster everywhere; needs calibration text",
    supports: |_| Ok(()),
    build: |table| Ok(Stage::Shape(stage::parse::<Parameters>("depth", table)?.validate()?)),
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// Layers that go.
    layers: Option<usize>,
    /// Layers that stay, as a number or a share.
    keep: Option<Amount>,
    /// `greedy`, `influence` or `contiguous`.
    by: LayerScore,
    /// Lets the layer before those that go make up for them.
    correct: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { layers: None, keep: None, by: LayerScore::Greedy, correct: true }
    }
}

impl Parameters {
    fn validate(self) -> Result<Shape> {
        let keep = match (self.layers, self.keep) {
            (Some(_), Some(_)) => {
                return Err(Error::usage("depth: layers and keep", "layers go, keep stay: give one of them"));
            }
            (Some(0), None) => {
                return Err(Error::usage("depth: layers is 0", "give the number of layers that go"));
            }
            (Some(layers), None) => Amount::AllBut(layers),
            (None, Some(keep)) => keep,
            (None, None) => Amount::Share(0.9),
        };
        keep.check("depth.keep")?;
        Ok(Shape::Depth(Depth { keep, by: self.by, correct: self.correct }))
    }
}

/// The layers of most influence; of equal ones, the last.
pub(crate) fn most_influential(influences: &[f64], keep: usize) -> Kept {
    let mut order: Vec<u32> = (0..influences.len() as u32).collect();
    order.sort_by(|a, b| influences[*a as usize].total_cmp(&influences[*b as usize]));
    Kept::new(order.split_off(influences.len() - keep))
}

/// The layers but for the run of `count` whose angle is least. `angles` has the angle of each run that ends before the last layer, by
/// its first layer.
pub(crate) fn without_run(layers: usize, count: usize, angles: &[f64]) -> Kept {
    let start = (0..angles.len()).min_by(|a, b| angles[*a].total_cmp(&angles[*b])).unwrap_or(0) as u32;
    let run = start..start + count as u32;
    Kept::new((0..layers as u32).filter(|layer| !run.contains(layer)))
}

/// cos(x, y); 1 where either is zero.
pub(crate) fn cosine(x: &[f32], y: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(x, x) * dot(y, y)).sqrt();
    if norms > 0.0 { (dot(x, y) / norms).clamp(-1.0, 1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_of_least_influence_go() {
        assert_eq!(most_influential(&[0.9, 0.1, 0.5, 0.1, 0.3], 3).to_string(), "0,2,4");
        assert_eq!(most_influential(&[0.9, 0.1, 0.5, 0.1, 0.3], 4).to_string(), "0,2-4");
    }

    #[test]
    fn a_run_never_ends_with_the_last_layer() {
        // Runs of 2 of 5 layers begin at 0 to 2: the one from 3 would hold the last layer.
        assert_eq!(without_run(5, 2, &[0.4, 0.3, 0.2]).to_string(), "0-1,4");
        assert_eq!(without_run(5, 2, &[0.1, 0.3, 0.2]).to_string(), "2-4");
    }

    #[test]
    fn the_cosine_of_vectors() {
        assert!((cosine(&[1.0, 1.0], &[1.0, 0.0]) - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!((cosine(&[1.0], &[-2.0]), cosine(&[0.0], &[1.0])), (-1.0, 1.0));
    }
}
