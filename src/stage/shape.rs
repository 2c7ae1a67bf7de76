//! Stages that make a model smaller: they choose what stays before the blocks are worked on. What they choose is a
//! [`Surgery`](crate::recipe::Surgery), plain data; the pipeline measures what they choose by.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::Sizes;
use crate::recipe::{Kept, Surgery};

/// A stage that makes a model smaller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Fewer layers.
    Depth(Depth),
    /// Fewer heads and channels of the feed-forward networks, or a narrower residual stream.
    Width(Width),
    /// Fewer experts.
    Experts(Experts),
    /// Fewer tokens.
    Vocabulary(Vocabulary),
    /// Fewer layers and channels, as many as leave a share of the weights.
    Size(Size),
}

/// Fewer layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Depth {
    /// The layers that stay.
    pub keep: Amount,
    /// The choice of layers.
    pub by: LayerScore,
    /// True to let the layer before those that go make up for them.
    pub correct: bool,
}

/// The choice of the layers that go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerScore {
    /// One after the other, the one whose loss changes the model's predictions least.
    #[default]
    Greedy,
    /// Those that turn the hidden states least.
    Influence,
    /// The run of layers that turns the hidden states least.
    Contiguous,
}

/// Fewer heads and channels, or a narrower residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Width {
    /// Channels of the feed-forward networks that stay.
    pub ffn: Option<Amount>,
    /// Heads that stay: key/value heads, with the query heads that read them.
    pub heads: Option<Amount>,
    /// Columns of the residual stream that stay.
    pub hidden: Option<Amount>,
    /// Channels and columns that stay are a multiple of this.
    pub multiple: usize,
    /// The choice of channels and heads.
    pub by: ChannelScore,
    /// True to correct the weights behind what goes.
    pub correct: bool,
}

/// The choice of the channels and heads that go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelScore {
    /// Those whose loss changes the outputs least, once the others make up for it.
    #[default]
    Error,
    /// Those with the smallest activations.
    Activation,
}

/// Fewer experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    /// The experts of each layer that stay.
    pub keep: Amount,
    /// The choice of experts.
    pub by: ExpertScore,
}

/// The choice of the experts that go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpertScore {
    /// Those that add least to the tokens that are sent to them.
    #[default]
    Reap,
    /// Those that the fewest tokens are sent to.
    Frequency,
}

/// Fewer tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vocabulary {
    /// The tokens that stay are a multiple of this.
    pub multiple: usize,
}

/// A share of the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// The share that stays.
    pub params: f64,
    /// Channels that stay are a multiple of this.
    pub multiple: usize,
}

/// A share of what there is, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// So many.
    Count(usize),
    /// This part, between 0 and 1.
    Share(f64),
    /// All but so many.
    #[serde(skip)]
    AllBut(usize),
}

impl Amount {
    /// The number of `of` things.
    fn count(self, of: usize) -> usize {
        match self {
            Amount::Count(count) => count,
            Amount::Share(share) => (share * of as f64).round() as usize,
            Amount::AllBut(count) => of.saturating_sub(count),
        }
    }

    /// The number of `of` things, as the multiple of `multiple` next to it, but at least one multiple.
    fn rounded(self, of: usize, multiple: usize) -> usize {
        let count = self.count(of).max(1);
        let multiple = multiple.clamp(1, of.max(1));
        ((count + multiple / 2) / multiple * multiple).max(multiple).min(of)
    }

    /// Refuses a share that is not between 0 and 1, and a count of 0. `key` is its parameter, for errors.
    pub(crate) fn check(self, key: &str) -> Result<()> {
        let fits = match self {
            Amount::Count(count) => count > 0,
            Amount::Share(share) => share > 0.0 && share < 1.0,
            Amount::AllBut(count) => count > 0,
        };
        let found = match self {
            Amount::Count(count) | Amount::AllBut(count) => count.to_string(),
            Amount::Share(share) => share.to_string(),
        };
        let refused =
            || Error::usage(format!("{key} is {found}"), "give a share between 0 and 1, or a number");
        if fits { Ok(()) } else { Err(refused()) }
    }
}

impl Shape {
    /// A surgery of the same sizes as the one that measuring will find. Sizes follow from it before any work.
    ///
    /// # Errors
    /// More than the model has; nothing that would go.
    pub(crate) fn outline(&self, sizes: &Sizes) -> Result<Surgery> {
        match self {
            Shape::Depth(depth) => depth.outline(sizes),
            Shape::Width(width) => width.outline(sizes),
            Shape::Experts(experts) => experts.outline(sizes),
            Shape::Vocabulary(_) | Shape::Size(_) => Ok(Surgery::default()), // only the text tells
        }
    }

    /// The stages that are measured one after the other in its place: a narrower residual stream comes behind the rest.
    pub(crate) fn passes(self) -> Vec<Shape> {
        let Shape::Width(width) = self else { return vec![self] };
        let inner = Width { hidden: None, ..width };
        let outer = Width { ffn: None, heads: None, ..width };
        let passes = [inner, outer].into_iter();
        let passes = passes.filter(|pass| pass.ffn.or(pass.heads).or(pass.hidden).is_some());
        passes.map(Shape::Width).collect()
    }
}

impl Depth {
    fn outline(self, sizes: &Sizes) -> Result<Surgery> {
        let keep = checked(self.keep.count(sizes.layers), sizes.layers, "layers")?;
        // The last ones, whose numbers change: what follows from the number of a layer is then found before the work.
        let last = Kept::new((sizes.layers - keep) as u32..sizes.layers as u32);
        Ok(Surgery { layers: Some(last), ..Surgery::default() })
    }
}

/// Widths between which there are at least so many steps, where the multiple can be chosen.
const FEWEST_STEPS: usize = 8;

impl Width {
    fn outline(self, sizes: &Sizes) -> Result<Surgery> {
        let mut surgery = Surgery::default();
        let all = |keep: usize| vec![first(keep); sizes.layers];
        if let Some(ffn) = self.ffn {
            refuse_ambiguous(ffn, sizes)?;
            surgery.channels = self.channels(ffn, &sizes.channels)?;
            let experts = self.channels(ffn, &sizes.expert_channels)?.into_iter().zip(&sizes.experts);
            surgery.expert_channels = experts.map(|(kept, count)| vec![kept; count.unwrap_or(0)]).collect();
        }
        if let Some(heads) = self.heads {
            let groups = self.groups(heads, sizes)?;
            surgery.kv_heads = all(checked(groups, sizes.kv_heads, "key/value heads")?);
        }
        if let Some(hidden) = self.hidden {
            let keep = hidden.rounded(sizes.hidden, self.width_multiple(sizes));
            surgery.hidden = Some(first(checked(keep, sizes.hidden, "columns of the residual stream")?));
        }
        Ok(surgery)
    }

    /// The channels that stay in each block, of the widths of its networks.
    fn channels(self, ffn: Amount, widths: &[Option<usize>]) -> Result<Vec<Kept>> {
        let mut known = widths.iter().copied().flatten();
        let Some(of) = known.next() else { return Ok(Vec::new()) };
        if known.any(|width| width != of) {
            return Err(Error::unsupported(
                "feed-forward networks of several widths: no config.json can say as many channels for each",
                "prune layers with --method depth, or leave width.ffn out",
            ));
        }
        let keep = checked(ffn.rounded(of, self.multiple), of, "channels")?;
        Ok(widths.iter().map(|width| width.map_or_else(Kept::default, |_| first(keep))).collect())
    }

    /// The multiple that columns of the residual stream are rounded to: that of the heads too, where the model's class needs it.
    fn width_multiple(self, sizes: &Sizes) -> usize {
        if !sizes.heads_divide_width {
            return self.multiple;
        }
        let common =
            |multiple: usize| (1..=multiple).map(|n| n * sizes.heads).find(|n| n.is_multiple_of(multiple));
        let multiples = std::iter::successors(Some(self.multiple), |m| Some(m / 2).filter(|m| *m > 0));
        let mut fitting = multiples.filter_map(common).filter(|n| n * FEWEST_STEPS <= sizes.hidden);
        fitting.next().unwrap_or(sizes.heads)
    }

    /// The key/value heads that stay. A number of heads is one of query heads.
    fn groups(self, heads: Amount, sizes: &Sizes) -> Result<usize> {
        if sizes.kv_heads == 1 {
            return Err(Error::unsupported(
                "width.heads of a model with one key/value head, which all query heads read: heads go with theirs",
                "take channels out: --set width.ffn=0.75, or layers: --method depth",
            ));
        }
        let per_group = sizes.heads / sizes.kv_heads.max(1);
        match heads {
            Amount::Share(_) | Amount::AllBut(_) => {
                let asked = heads.rounded(sizes.kv_heads, 1);
                let fits = |groups: &usize| {
                    !sizes.heads_divide_width || sizes.hidden.is_multiple_of(groups * per_group)
                };
                let near = (1..sizes.kv_heads).filter(fits).min_by_key(|groups| groups.abs_diff(asked));
                Ok(near.unwrap_or(asked))
            }
            Amount::Count(count) if count.is_multiple_of(per_group.max(1)) => Ok(count / per_group.max(1)),
            Amount::Count(count) => Err(Error::usage(
                format!("width.heads is {count}, and {per_group} query heads share a key/value head"),
                format!("keep a multiple of {per_group}"),
            )),
        }
    }
}

impl Experts {
    fn outline(self, sizes: &Sizes) -> Result<Surgery> {
        let Some(of) = sizes.experts.iter().copied().flatten().next() else {
            return Err(Error::usage(
                "the model has no experts",
                "--method width takes channels and heads out",
            ));
        };
        let keep = checked(self.keep.count(of), of, "experts")?;
        if keep < sizes.top_k {
            let what = format!("{keep} experts would stay, and each token is sent to {}", sizes.top_k);
            return Err(Error::usage(what, format!("keep at least {}", sizes.top_k)));
        }
        let layer = |experts: &Option<usize>| experts.map_or_else(Kept::default, |_| first(keep));
        Ok(Surgery { experts: sizes.experts.iter().map(layer).collect(), ..Surgery::default() })
    }
}

/// Refuses channels of networks that are not known, and a number that could be one of experts or of the other blocks.
fn refuse_ambiguous(ffn: Amount, sizes: &Sizes) -> Result<()> {
    let width = |widths: &[Option<usize>]| widths.iter().copied().flatten().next();
    match (width(&sizes.channels), width(&sizes.expert_channels), ffn) {
        (None, None, _) => Err(Error::unsupported(
            "width.ffn: the feed-forward networks of this model are not stored one by one",
            "take whole experts out: --method experts, or layers: --method depth",
        )),
        (Some(dense), Some(expert), Amount::Count(count)) => Err(Error::usage(
            format!(
                "width.ffn is {count}, of a model with networks of {dense} channels and experts of {expert}"
            ),
            "give a share of both: --set width.ffn=0.75",
        )),
        _ => Ok(()),
    }
}

/// The first so many.
fn first(count: usize) -> Kept {
    Kept::new(0..count as u32)
}

/// Refuses to keep nothing, or all.
fn checked(keep: usize, of: usize, what: &str) -> Result<usize> {
    if (1..of).contains(&keep) {
        return Ok(keep);
    }
    let found = match keep {
        0 => format!("none of {of} {what} would stay"),
        _ if keep == of => format!("all {of} {what} would stay"),
        _ => format!("{keep} {what} would stay, of a model that has {of}"),
    };
    Err(Error::usage(found, format!("keep from 1 to {} {what}", of.saturating_sub(1))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sizes() -> Sizes {
        Sizes {
            layers: 4,
            hidden: 96,
            heads: 9,
            kv_heads: 3,
            heads_divide_width: false,
            vocabulary: 10,
            channels: vec![Some(160); 4],
            expert_channels: vec![None; 4],
            experts: vec![None; 4],
            top_k: 0,
        }
    }

    fn width() -> Width {
        Width { ffn: None, heads: None, hidden: None, multiple: 32, by: ChannelScore::Error, correct: true }
    }

    #[test]
    fn amounts_are_rounded_to_multiples() {
        let check = |share: f64, of: usize, expected: usize| {
            assert_eq!(Amount::Share(share).rounded(of, 32), expected, "{share} of {of}");
        };
        check(0.75, 1536, 1152);
        check(0.5, 160, 96);
        check(0.01, 160, 32);
        check(0.99, 160, 160);
        check(0.5, 20, 20);
        assert_eq!(Amount::Count(100).rounded(160, 32), 96);
    }

    #[test]
    fn sizes_are_known_before_any_work() {
        let cut = Width { ffn: Some(Amount::Share(0.5)), heads: Some(Amount::Share(0.67)), ..width() };
        let outline = cut.outline(&sizes()).unwrap();
        assert_eq!((outline.channels.len(), outline.channels[0].numbers().len()), (4, 96));
        assert_eq!(outline.kv_heads[3].to_string(), "0-1");
        let depth = Depth { keep: Amount::Count(3), by: LayerScore::Greedy, correct: true };
        assert_eq!(depth.outline(&sizes()).unwrap().layers.unwrap().to_string(), "1-3");
    }

    /// Every other layer has experts, which are as wide as each other.
    #[test]
    fn experts_lose_the_same_share_as_other_networks() {
        let mixed = |dense: usize, expert: usize| Sizes {
            channels: vec![Some(dense), None, Some(dense), None],
            expert_channels: vec![None, Some(expert), None, Some(expert)],
            experts: vec![None, Some(8), None, Some(8)],
            ..sizes()
        };
        let cut = |ffn| Width { ffn: Some(ffn), ..width() };
        let outline = cut(Amount::Share(0.5)).outline(&mixed(320, 64)).unwrap();
        assert_eq!(
            outline.channels.iter().map(|kept| kept.numbers().len()).collect::<Vec<_>>(),
            [160, 0, 160, 0]
        );
        let experts: Vec<usize> = outline.expert_channels.iter().map(Vec::len).collect();
        assert_eq!((experts, outline.expert_channels[3][7].numbers().len()), (vec![0, 8, 0, 8], 32));
        let refused = |cut: Width, sizes: Sizes, words: &str| {
            let error = cut.outline(&sizes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused(cut(Amount::Count(32)), mixed(320, 64), "networks of 320 channels and experts of 64");
        let stacked = Sizes { channels: vec![None; 4], experts: vec![Some(8); 4], ..sizes() };
        refused(cut(Amount::Share(0.5)), stacked, "not stored one by one");
    }

    /// SmolLM2: 576 columns and 9 heads, of which Llama's class wants a multiple.
    #[test]
    fn heads_divide_the_width_where_the_class_needs_it() {
        let sizes = Sizes { hidden: 576, heads_divide_width: true, ..sizes() };
        let hidden = Width { hidden: Some(Amount::Share(0.875)), ..width() };
        assert_eq!(hidden.outline(&sizes).unwrap().hidden.unwrap().numbers().len(), 504);
        let heads = |share, of: &Sizes| {
            let cut = Width { heads: Some(Amount::Share(share)), ..width() };
            cut.outline(of).unwrap().kv_heads[0].numbers().len()
        };
        assert_eq!(heads(0.67, &sizes), 2);
        let eight = Sizes { hidden: 4096, heads: 32, kv_heads: 8, ..sizes.clone() };
        assert_eq!(heads(0.75, &eight), 4, "16 heads divide 4096, 20 to 28 do not");
        assert_eq!(heads(0.75, &Sizes { heads_divide_width: false, ..eight }), 6);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |shape: Shape, words: &str| {
            let error = shape.outline(&sizes()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        let depth =
            |keep| Shape::Depth(Depth { keep: Amount::Count(keep), by: LayerScore::Greedy, correct: true });
        refused(depth(0), "none of 4 layers");
        refused(depth(4), "all 4 layers");
        refused(depth(5), "5 layers would stay, of a model that has 4");
        let heads = |count| Shape::Width(Width { heads: Some(Amount::Count(count)), ..width() });
        refused(heads(4), "3 query heads share");
        refused(heads(9), "all 3 key/value heads");
        let experts = Shape::Experts(Experts { keep: Amount::Share(0.5), by: ExpertScore::Reap });
        refused(experts, "no experts");
    }
}
