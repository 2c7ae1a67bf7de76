//! `experts`: whole experts of a mixture go, as many in each block.
//!
//! **What.** `reap` (the default): the saliency of an expert is the mean, over the tokens that the router sends to it, of g·‖f(x)‖₂: f
//! being its output and g the weight that the router gives it. `frequency`: the number of these tokens. The experts of least
//! saliency go, with their rows of the router; those that stay are not changed.
//!
//! **When.** Memory is the limit: the output takes less of it, and runs as fast as before. Use text of every kind that the model
//! is to know: experts of a subject that the text lacks are the first to go.
//!
//! **Cost.** One pass over the calibration set.
//!
//! ```text
//! llmc prune --method experts --set experts.keep=0.75 --data corpus.jsonl model/
//! ```
//!
//! Reference: Lasby et al. 2025, "REAP the Experts", <https://arxiv.org/abs/2510.13999>, equation 8.

use serde::{Deserialize, Serialize};

use crate::recipe::Kept;
use crate::stage::{self, Amount, Def, ExpertScore, Experts, Shape, Stage};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "experts",
    summary: "take out the experts of a mixture that matter least: needs calibration text",
    supports: |_| Ok(()),
    build: |table| {
        let Parameters { keep, by } = stage::parse("experts", table)?;
        keep.check("experts.keep")?;
        Ok(Stage::Shape(Shape::Experts(Experts { keep, by })))
    },
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// The experts of each block that stay, as a number or a share.
    keep: Amount,
    /// `reap` or `frequency`.
    by: ExpertScore,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { keep: Amount::Share(0.75), by: ExpertScore::Reap }
    }
}

/// The tokens that the router sends to an expert, and its outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    /// Tokens.
    pub tokens: u64,
    /// The sum of g·‖f(x)‖₂ over them.
    pub output: f64,
}

impl Traffic {
    /// The model's loss with the expert.
    fn saliency(self, by: ExpertScore) -> f64 {
        match by {
            ExpertScore::Frequency => self.tokens as f64,
            ExpertScore::Reap if self.tokens == 0 => 0.0,
            ExpertScore::Reap => self.output / self.tokens as f64,
        }
    }
}

/// The experts of a block that stay; of equal ones, the first.
pub(crate) fn most_salient(traffic: &[Traffic], keep: usize, by: ExpertScore) -> Kept {
    let saliency = |expert: &u32| traffic[*expert as usize].saliency(by);
    let mut order: Vec<u32> = (0..traffic.len() as u32).collect();
    order.sort_by(|a, b| saliency(b).total_cmp(&saliency(a)));
    Kept::new(order.into_iter().take(keep))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_salient_experts_stay() {
        let traffic = |tokens, output| Traffic { tokens, output };
        let block = [traffic(10, 5.0), traffic(1, 3.0), traffic(0, 0.0), traffic(4, 4.0)];
        assert_eq!(most_salient(&block, 2, ExpertScore::Reap).to_string(), "1,3");
        assert_eq!(most_salient(&block, 2, ExpertScore::Frequency).to_string(), "0,3");
        assert_eq!(most_salient(&[traffic(0, 0.0); 3], 2, ExpertScore::Reap).to_string(), "0-1");
    }
}
