//! The influence of layers, and the angles of runs of layers.

use serde::{Deserialize, Serialize};

use super::work::Work;
use crate::error::Result;
use crate::pipeline::blocks::Chain;
use crate::prune::depth::{cosine, most_influential, without_run};
use crate::recipe::Kept;

/// The measurements of a layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LayerMeasure {
    /// The mean of 1 − cos(x, y) over all tokens.
    influence: f64,
    /// The states before it of the last token of each sequence, [sequences, hidden].
    before: Vec<f32>,
}

impl Work<'_> {
    /// Measures every layer in one pass.
    fn measure_layers(&self) -> Result<Vec<LayerMeasure>> {
        self.each_block(false, |index, input, output, _| {
            let (input, output) = (&input[0], &output[0]);
            self.runner.pass(index, &self.runner.weights(), input, None, Some(output))?;
            let influence = self.influence(input, output)?;
            Ok(LayerMeasure { influence, before: self.last_states(input)? })
        })
    }

    pub(super) fn by_influence(&self, keep: usize) -> Result<Kept> {
        let influences: Vec<f64> = self.measure_layers()?.iter().map(|layer| layer.influence).collect();
        tracing::info!(?influences, "influence of layers");
        Ok(most_influential(&influences, keep))
    }

    pub(super) fn by_angle(&self, keep: usize) -> Result<Kept> {
        let layers = self.measure_layers()?;
        let count = layers.len() - keep;
        // Of a run and the layer behind it: a run never ends with the last layer.
        let angle = |run: &[LayerMeasure]| self.angle(&run[0].before, &run[count].before);
        let angles: Vec<f64> = layers.windows(count + 1).map(angle).collect();
        tracing::info!(?angles, "angles of runs of layers");
        Ok(without_run(layers.len(), count, &angles))
    }

    /// The mean of 1 − cos(x, y) over the tokens of two chains.
    fn influence(&self, input: &Chain, output: &Chain) -> Result<f64> {
        let mut sum = 0.0;
        for batch in self.batches().all() {
            let tokens = self.batches().range(batch);
            let (x, y) = (input.read(&tokens)?, output.read(&tokens)?);
            sum += self.rows(&x).zip(self.rows(&y)).map(|(x, y)| 1.0 - cosine(x, y)).sum::<f64>();
        }
        Ok(sum / self.batches().tokens().max(1) as f64)
    }

    fn rows<'v>(&self, values: &'v [f32]) -> impl Iterator<Item = &'v [f32]> {
        values.chunks(self.runner.model.hidden)
    }

    /// The states of the last token of each sequence.
    fn last_states(&self, chain: &Chain) -> Result<Vec<f32>> {
        let last = |sequence| {
            let tokens = self.batches().of_sequence(sequence);
            chain.read(&(tokens.end - 1..tokens.end))
        };
        let sequences =
            (0..self.survey.sequences.len()).filter(|index| !self.survey.sequences[*index].is_empty());
        Ok(sequences.map(last).collect::<Result<Vec<_>>>()?.concat())
    }

    /// The mean of arccos(cos(x, y))/π over sequences.
    fn angle(&self, x: &[f32], y: &[f32]) -> f64 {
        let angles: Vec<f64> =
            self.rows(x).zip(self.rows(y)).map(|(x, y)| cosine(x, y).acos() / std::f64::consts::PI).collect();
        angles.iter().sum::<f64>() / angles.len().max(1) as f64
    }
}
