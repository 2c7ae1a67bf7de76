//! `size`: the model loses layers and channels until it has a share of its weights.
//!
//! **What.** A few ways to get there are tried: by `depth` alone, by `width` alone (channels of the feed-forward networks), and by mixes of
//! both. Each is measured on a part of the calibration set, and scored by the KL divergence of its predictions from those of the whole
//! model on a held-out part. The best one is then carried out with all of the set.
//!
//! **When.** A size is given, and nothing is known of how the model takes either. Mixtures of experts lose layers alone: take experts
//! out with `experts`.
//!
//! **Cost.** For each way its measurement on 16 sequences, and a pass over a few more.
//!
//! ```text
//! llmc prune --target-params 0.8 --data corpus.jsonl model/
//! ```

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::Sizes;
use crate::stage::{self, Amount, ChannelScore, Def, Depth, LayerScore, Shape, Size, Stage, Width};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "size",
    summary: "take out layers and channels until a share of the weights is left, in the best of a few ways: needs calibration text",
    supports: |_| Ok(()),
    build: |table| {
        let Parameters { params, multiple } = stage::parse("size", table)?;
        if !(params > 0.0 && params < 1.0) {
            return Err(Error::usage(format!("size.params is {params}"), "give a share of the weights: 0.8"));
        }
        Ok(Stage::Shape(Shape::Size(Size { params, multiple: multiple.max(1) })))
    },
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// The share of the weights that stays.
    params: f64,
    /// Channels that stay are a multiple of this.
    multiple: usize,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { params: 0.8, multiple: 32 }
    }
}

/// The parts of the way that layers go, of the ways that are tried: the rest is channels.
const BY_DEPTH: [f64; 4] = [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0];
/// Fewest channels that stay, as a share.
const FEWEST: f64 = 0.25;

/// The ways to a size, each as stages in order. `weights` counts the weights with so many layers and channels that stay; `None` for
/// all.
///
/// # Errors
/// A size that no way reaches.
pub(crate) fn ways(
    size: &Size,
    sizes: &Sizes,
    whole: u64,
    weights: impl Fn(usize, Option<usize>) -> Result<u64>,
) -> Result<Vec<Vec<Shape>>> {
    let target = (size.params * whole as f64) as u64;
    let fits = |layers: usize, channels: Option<usize>| Ok::<_, Error>(weights(layers, channels)? <= target);
    let shallowest = largest(sizes.layers, |layers| fits(layers, None))?;
    let (fewest, widest) = (shallowest.unwrap_or(1), widest(sizes));
    let mut found: Vec<(usize, Option<usize>)> = Vec::new();
    for part in BY_DEPTH {
        let layers = sizes.layers - (part * (sizes.layers - fewest) as f64).round() as usize;
        let channels = match (fits(layers, None)?, widest) {
            (true, _) => Some(None),
            (false, Some(widest)) => {
                let steps = (widest - 1) / size.multiple;
                let most = largest(steps, |steps| fits(layers, Some(steps * size.multiple)))?;
                let most = most.map(|steps| steps * size.multiple);
                most.filter(|channels| *channels as f64 >= FEWEST * widest as f64).map(Some)
            }
            (false, None) => None,
        };
        if let Some(channels) = channels.filter(|channels| !found.contains(&(layers, *channels))) {
            found.push((layers, channels));
        }
    }
    let stages = |(layers, channels): (usize, Option<usize>)| stages(size, sizes, layers, channels);
    match found.is_empty() {
        true => Err(Error::usage(
            format!("no number of layers and channels leaves {} of the weights", size.params),
            "embedding and head stay whole here: --method vocabulary makes them smaller; or take a larger share",
        )),
        false => Ok(found.into_iter().map(stages).collect()),
    }
}

/// The largest number from 1 to `most` that fits, if all smaller ones do.
fn largest(most: usize, fits: impl Fn(usize) -> Result<bool>) -> Result<Option<usize>> {
    let (mut below, mut above) = (0, most + 1);
    while above - below > 1 {
        let middle = below + (above - below) / 2;
        if fits(middle)? { below = middle } else { above = middle }
    }
    Ok(Some(below).filter(|found| *found > 0))
}

/// The channels of every block; `None` where blocks differ, or have experts.
fn widest(sizes: &Sizes) -> Option<usize> {
    let first = sizes.channels.first().copied().flatten()?;
    sizes.channels.iter().all(|channels| *channels == Some(first)).then_some(first)
}

fn stages(size: &Size, sizes: &Sizes, layers: usize, channels: Option<usize>) -> Vec<Shape> {
    let depth = Depth { keep: Amount::Count(layers), by: LayerScore::Influence, correct: true };
    let depth = (layers < sizes.layers).then_some(Shape::Depth(depth));
    let width = channels.map(|channels| {
        let ffn = Some(Amount::Count(channels));
        let by = ChannelScore::Error;
        Shape::Width(Width { ffn, heads: None, hidden: None, multiple: size.multiple, by, correct: true })
    });
    depth.into_iter().chain(width).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sizes(layers: usize, channels: Option<usize>) -> Sizes {
        Sizes { layers, channels: vec![channels; layers], ..Sizes::default() }
    }

    /// A model of 100 weights beside layers of 2 weights a channel.
    fn ways_to(params: f64, channels: Option<usize>) -> Result<Vec<Vec<(usize, usize)>>> {
        let sizes = sizes(6, channels);
        let width = channels.unwrap_or(160);
        let weights =
            |layers: usize, kept: Option<usize>| Ok((100 + 2 * layers * kept.unwrap_or(width)) as u64);
        let size = Size { params, multiple: 32 };
        let count = |amount: Amount| match amount {
            Amount::Count(count) => count,
            _ => 0,
        };
        let told = |shape: Shape| match shape {
            Shape::Depth(depth) => (count(depth.keep), 0),
            Shape::Width(width) => (0, count(width.ffn.unwrap())),
            _ => (0, 0),
        };
        let found = ways(&size, &sizes, weights(6, None)?, weights)?;
        Ok(found.into_iter().map(|way| way.into_iter().map(told).collect()).collect())
    }

    /// 0.7 of 2020 weights are 1414: 4 layers, or 6 of 96 channels, or 5 of 128.
    #[test]
    fn ways_by_depth_and_by_width() {
        let found = ways_to(0.7, Some(160)).unwrap();
        assert_eq!(found, [vec![(0, 96)], vec![(5, 0), (0, 128)], vec![(4, 0)]]);
    }

    #[test]
    fn models_without_channels_lose_layers_alone() {
        assert_eq!(ways_to(0.7, None).unwrap(), [vec![(4, 0)]]);
        assert!(ways_to(0.01, Some(160)).unwrap_err().to_string().contains("leaves 0.01 of the weights"));
    }
}
