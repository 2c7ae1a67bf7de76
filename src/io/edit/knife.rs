//! The parts of each tensor that a surgery leaves.

use crate::error::{CHECKPOINT, Error, Result};
use crate::io::source::Source;
use crate::model::{Arch, Axis, LayerName, Model, Network, Numbers, Sizes, TensorRole};
use crate::recipe::{Kept, Surgery, of_each};

/// A surgery on a model.
pub(super) struct Knife<'a> {
    pub arch: &'static Arch,
    pub model: &'a Model,
    pub surgery: &'a Surgery,
    pub sizes: Sizes,
}

impl Knife<'_> {
    /// Returns the rest of a tensor under its new name; `None` where there is none.
    ///
    /// # Errors
    /// A tensor that is narrower than config.json says.
    pub(super) fn cut(&self, whole: &Source) -> Result<Option<Source>> {
        let Some(name) = self.new_name(&whole.name) else { return Ok(None) };
        let mut source = Source { name, ..whole.clone() };
        if let Some(known) = self.arch.loaded(&whole.name) {
            let [rows, cols] = self.axes(known.role, whole);
            let [row_count, col_count] = whole.rows_cols();
            let kept = |axis: Option<Axis>, count| self.kept(axis?, known.numbers, count);
            source.corrected |= self.corrects(known.role, known.numbers.block);
            let (rows, cols) = (kept(rows, row_count), kept(cols, col_count));
            if is_beyond(&rows, row_count) || is_beyond(&cols, col_count) {
                return Err(too_narrow(whole));
            }
            source.cut(rows, cols);
        }
        Ok(Some(source))
    }

    /// The new name of a tensor; `None` where its layer or its expert goes.
    fn new_name(&self, name: &str) -> Option<String> {
        if let Some(known) = self.arch.loaded(name) {
            let Numbers { block, part } = known.numbers;
            let part = match self.experts_of(known.role, block) {
                Some(experts) => Some(experts.place(part? as u32)?),
                None => part,
            };
            let block = match block {
                Some(layer) => Some(self.new_layer(layer)?),
                None => None,
            };
            return Some(known.renumbered(name, Numbers { block, part }));
        }
        match self.arch.layer_name(name) {
            Some(LayerName { before, layer, after }) => {
                Some(format!("{before}{}{after}", self.new_layer(layer)?))
            }
            None => Some(name.to_owned()),
        }
    }

    /// The axes of a stored tensor, [rows, columns]; a vector is one row.
    fn axes(&self, role: TensorRole, source: &Source) -> [Option<Axis>; 2] {
        match source.shape.len() {
            1 if role.is_norm() => [None, self.model.axes(role)[1]],
            1 => [None, role.axes()[0]],
            _ => self.model.axes(role),
        }
    }

    /// The numbers that stay of an axis of so many; `None` for all.
    fn kept(&self, axis: Axis, numbers: Numbers, count: usize) -> Option<Vec<u32>> {
        let layer = numbers.block;
        let Surgery { hidden, vocabulary, kv_heads, experts, .. } = self.surgery;
        match axis {
            Axis::Hidden => hidden.as_ref().map(|kept| kept.numbers().to_vec()),
            Axis::Vocabulary => vocabulary.as_ref().map(|kept| kept.numbers().to_vec()),
            Axis::Channels(network) => Some(self.channels(network, numbers)?.to_vec()),
            Axis::GatesAndChannels(network) => {
                let (channels, half) = (self.channels(network, numbers)?, count as u32 / 2);
                Some(channels.iter().copied().chain(channels.iter().map(|channel| half + channel)).collect())
            }
            Axis::Experts => Some(experts.get(layer?)?.numbers().to_vec()),
            Axis::Queries | Axis::KeyValues | Axis::QueriesKeysValues => {
                self.model.attention()?.kept_columns(axis, kv_heads.get(layer?)?.numbers())
            }
            Axis::One => None,
        }
    }

    /// The channels that stay of a feed-forward network; `None` for all.
    fn channels(&self, network: Network, Numbers { block, part }: Numbers) -> Option<&[u32]> {
        let Surgery { channels, expert_channels, .. } = self.surgery;
        let kept = match network {
            Network::Dense => channels.get(block?),
            Network::Expert => expert_channels.get(block?)?.get(part?),
            Network::Shared => None,
        };
        kept.map(Kept::numbers)
    }

    /// The experts that stay in a layer, of a role that each expert has.
    fn experts_of(&self, role: TensorRole, layer: Option<usize>) -> Option<&Kept> {
        let (TensorRole::Gate(network) | TensorRole::Up(network) | TensorRole::Down(network)) = role else {
            return None;
        };
        self.surgery.experts.get(layer?).filter(|_| network == Network::Expert)
    }

    /// The new number of a layer that stays.
    fn new_layer(&self, layer: usize) -> Option<usize> {
        match &self.surgery.layers {
            None => Some(layer),
            Some(kept) => kept.place(layer as u32),
        }
    }

    /// Returns true for the weights that calibration corrects: those whose inputs are cut, and those before layers that go.
    fn corrects(&self, role: TensorRole, layer: Option<usize>) -> bool {
        let Surgery { layers, kv_heads, channels, expert_channels, corrected, .. } = self.surgery;
        let is_before_gap = |layer: usize| {
            let next = layer as u32 + 1;
            layers
                .as_ref()
                .is_some_and(|kept| (next as usize) < self.sizes.layers && kept.place(next).is_none())
        };
        let changes = match role {
            TensorRole::AttentionOutput => !kv_heads.is_empty(),
            TensorRole::Down(Network::Dense) => !channels.is_empty() || layer.is_some_and(is_before_gap),
            TensorRole::Down(Network::Expert) => !expert_channels.is_empty(),
            _ => false,
        };
        corrected.is_some() && changes
    }

    /// Refuses numbers that the model does not have, and widths that differ between layers.
    pub(super) fn check(&self) -> Result<()> {
        let Surgery { layers, hidden, vocabulary, kv_heads, channels, experts, .. } = self.surgery;
        let sizes = &self.sizes;
        let whole = [
            ("layers", layers, sizes.layers),
            ("columns of the residual stream", hidden, sizes.hidden),
            ("tokens", vocabulary, sizes.vocabulary),
        ];
        for (what, kept, count) in whole {
            kept.as_ref().map_or(Ok(()), |kept| kept.check(what, count))?;
        }
        self.check_each("key/value heads", kv_heads, |_| Some(sizes.kv_heads))?;
        self.check_each("channels", channels, |layer| sizes.channels[layer])?;
        self.check_experts()?;
        self.check_each("experts", experts, |layer| sizes.experts[layer])?;
        self.refuse_unrouted()
    }

    /// Checks what stays of each layer, `count` in the layers that have any.
    fn check_each(&self, what: &str, kept: &[Kept], count: impl Fn(usize) -> Option<usize>) -> Result<()> {
        let layers = self.sizes.layers;
        if kept.is_empty() {
            return Ok(());
        }
        if kept.len() != layers || (0..layers).all(|layer| count(layer).is_none()) {
            let found = format!("surgery: {what} of {} layers", kept.len());
            let has = (0..layers).filter(|layer| count(*layer).is_some()).count();
            let hint =
                format!("the model has {layers}, of which {has} have {what}: name them for each layer");
            return Err(Error::usage(found, hint));
        }
        let lacks = |layer: &usize| count(*layer).is_none() && !kept[*layer].numbers().is_empty();
        if let Some(layer) = (0..layers).find(lacks) {
            let found = format!("surgery: {what} of layer {layer}, which has none");
            return Err(Error::usage(found, "leave its entry empty: \"\""));
        }
        let counted = kept.iter().enumerate().filter_map(|(layer, kept)| Some((kept, count(layer)?)));
        check_equal(what, "layers", counted)
    }

    /// Checks the channels that stay of each expert.
    fn check_experts(&self) -> Result<()> {
        let (sizes, layers) = (&self.sizes, &self.surgery.expert_channels);
        let Some(channels) = sizes.expert_channels.iter().copied().flatten().next() else {
            let refused =
                || Error::usage("surgery: channels of experts of a model without any", "leave them out");
            return if layers.is_empty() { Ok(()) } else { Err(refused()) };
        };
        let counts = sizes.experts.iter().map(|experts| experts.unwrap_or(0));
        if !layers.is_empty() && !layers.iter().map(Vec::len).eq(counts) {
            let found = "surgery: channels of experts that are not as many as the model has";
            return Err(Error::usage(
                found,
                "name them for each layer and expert; of a layer without any: []",
            ));
        }
        check_equal("channels of experts", "experts", layers.iter().flatten().map(|kept| (kept, channels)))
    }

    /// Refuses fewer experts than each token is sent to.
    fn refuse_unrouted(&self) -> Result<()> {
        let top_k = self.sizes.top_k;
        match of_each(&self.surgery.experts) {
            Some(kept) if kept < top_k => Err(Error::usage(
                format!("{kept} experts would stay, and each token is sent to {top_k}"),
                format!("keep at least {top_k}"),
            )),
            _ => Ok(()),
        }
    }
}

/// Checks what stays of layers or experts, each with the number of what it has: as much of each.
fn check_equal<'a>(what: &str, between: &str, all: impl Iterator<Item = (&'a Kept, usize)>) -> Result<()> {
    let mut width = None;
    for (kept, count) in all {
        kept.check(what, count)?;
        let len = kept.numbers().len();
        if *width.get_or_insert(len) != len {
            let found = format!("surgery: {what} that differ in number between {between}");
            return Err(Error::unsupported(found, "no config.json can say that: keep as many in each"));
        }
    }
    Ok(())
}

/// Returns true if a number is none of so many.
fn is_beyond(kept: &Option<Vec<u32>>, count: usize) -> bool {
    kept.iter().flatten().any(|number| *number as usize >= count)
}

fn too_narrow(whole: &Source) -> Error {
    let hint = "config.json does not belong to these weights, or the file is damaged";
    let (expected, found) = ("a tensor as wide as config.json says", format!("{:?}", whole.shape));
    Error::malformed_tensor(CHECKPOINT, &whole.name, expected, found, hint)
}
