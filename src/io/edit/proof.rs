//! The proof that a config.json says what was cut, and nothing else: the model that it describes has the layers that stay, each as it
//! was. Where a setting follows from a layer's number, or from a width, another number gives another model.

use super::knife::Knife;
use crate::error::{Error, Result};
use crate::model::{FeedForward, Layer, Mixer, Model};
use crate::recipe::{Surgery, of_each};

/// Compares the model that an edited config.json describes with what a surgery leaves of the model before.
///
/// # Errors
/// A difference that the surgery does not ask for.
pub(super) fn check(edited: &Model, knife: &Knife) -> Result<()> {
    let Surgery { layers, hidden, kv_heads, .. } = knife.surgery;
    let before = knife.model;
    let all: Vec<u32> = (0..before.layers.len() as u32).collect();
    let kept = layers.as_ref().map_or(all.as_slice(), |kept| kept.numbers());
    let expected: Vec<Layer> =
        kept.iter().map(|layer| left(&before.layers[*layer as usize], knife)).collect();
    let width = hidden.as_ref().map_or(before.hidden, |kept| kept.numbers().len());
    let has_slopes = !kv_heads.is_empty() && before.attention().is_some_and(|attention| attention.alibi);
    if edited.layers != expected || has_slopes {
        return Err(refused("a layer is computed by its number, or its heads by theirs"));
    }
    if (edited.hidden, edited.frame) != (width, before.frame) {
        return Err(refused("the embedding or the head is computed by the width"));
    }
    let heads = edited.attention().map_or(1, |attention| attention.heads.max(1));
    if knife.sizes.heads_divide_width && !edited.hidden.is_multiple_of(heads) {
        let what =
            format!("transformers refuses a model of this class of {heads} heads and a width of {width}");
        return Err(Error::unsupported(
            what,
            "its width must be a multiple of its heads: keep other numbers",
        ));
    }
    if edited.rotaries != before.rotaries || edited.context != before.context {
        return Err(refused("positions are told by what is cut"));
    }
    Ok(())
}

fn refused(why: &str) -> Error {
    Error::unsupported(
        format!("config.json of this model cannot say what is cut: {why}"),
        "choose another part to cut, or set weights to zero with --method sparsegpt",
    )
}

/// A layer with as many heads and experts as stay.
fn left(layer: &Layer, knife: &Knife) -> Layer {
    let Surgery { kv_heads, experts, .. } = knife.surgery;
    let mut layer = *layer;
    let Mixer::Attention(attention) = &mut layer.mixer;
    if let Some(kept) = of_each(kv_heads) {
        attention.heads = kept * (attention.heads / attention.kv_heads);
        attention.kv_heads = kept;
    }
    if let (FeedForward::Experts(experts), Some(stay)) = (&mut layer.feed_forward, of_each(experts)) {
        experts.choice.iter_mut().for_each(|choice| choice.count = stay);
    }
    layer
}
