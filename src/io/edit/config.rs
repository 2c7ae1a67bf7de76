//! config.json of a model that was cut.

use serde_json::{Map, Value};

use super::knife::Knife;
use super::vocabulary;
use crate::error::{Error, Result};
use crate::model::SettingKeys;
use crate::recipe::{Kept, Surgery, of_each};

/// Lists with an entry for each layer.
const LISTS: [&str; 5] =
    ["layer_types", "no_rope_layers", "attention_layers", "mlp_layer_types", "layers_block_type"];
/// Lists of the numbers of layers.
const NUMBERS: [&str; 2] = ["mlp_only_layers", "full_attn_idxs"];
/// Names of the number of layers.
const LAYERS: [&str; 2] = ["num_hidden_layers", "n_layer"];
/// Names of the number of experts.
const EXPERTS: [&str; 4] = ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"];

/// Writes what a surgery changes into the settings of a language model.
///
/// # Errors
/// A width that the model's class has no setting for.
pub(super) fn edit(config: &mut Map<String, Value>, knife: &Knife) -> Result<()> {
    let Surgery { layers, hidden, vocabulary, .. } = knife.surgery;
    let keys = &knife.arch.outline.keys;
    if let Some(kept) = layers {
        edit_layers(config, kept, knife);
    }
    if let Some(kept) = vocabulary {
        config.insert("vocab_size".into(), kept.numbers().len().into());
        let mut settings = Value::Object(std::mem::take(config));
        vocabulary::edit_ids(&mut settings, kept);
        *config = settings.as_object().cloned().unwrap_or_default();
    }
    if let Some(kept) = hidden {
        set(config, keys.hidden, kept.numbers().len());
    }
    edit_heads(config, knife)?;
    edit_networks(config, knife)
}

/// Writes the number of heads and their size.
fn edit_heads(config: &mut Map<String, Value>, knife: &Knife) -> Result<()> {
    let Surgery { hidden, kv_heads, .. } = knife.surgery;
    let (keys, of_kv) = (&knife.arch.outline.keys, of_each(kv_heads));
    let Some(attention) = knife.model.attention().filter(|_| hidden.is_some() || of_kv.is_some()) else {
        return Ok(());
    };
    if keys.head_dim.is_empty() {
        return Err(head_size_follows(keys));
    }
    if let Some(of_kv) = of_kv {
        set(config, keys.heads, of_kv * (attention.heads / attention.kv_heads));
        set(config, keys.kv_heads, of_kv);
    }
    set(config, keys.head_dim, attention.head_dim);
    Ok(())
}

/// Writes the number of channels and experts.
fn edit_networks(config: &mut Map<String, Value>, knife: &Knife) -> Result<()> {
    let Surgery { channels, expert_channels, experts, .. } = knife.surgery;
    let keys = &knife.arch.outline.keys;
    if let Some(kept) = of_each(channels) {
        if keys.feed_forward.is_empty() {
            return Err(channels_follow());
        }
        set(config, keys.feed_forward, kept);
    }
    if let Some(kept) = of_each(expert_channels.iter().flatten()) {
        set(config, keys.expert_feed_forward, kept);
    }
    if let Some(kept) = of_each(experts) {
        change(config, &EXPERTS, |count| *count = kept.into());
    }
    Ok(())
}

/// The error of classes that compute the size of a head.
fn head_size_follows(keys: &SettingKeys) -> Error {
    let hint = match keys.feed_forward.is_empty() {
        true => "take layers out: --method depth",
        false => "take channels out: --method width --set width.ffn=0.75, or layers: --method depth",
    };
    let what = "transformers' class of this model computes the size of a head as its width over its heads: no config.json can \
                say fewer heads of this size, or less width for them";
    Error::unsupported(what, hint)
}

/// The error of classes that compute the number of channels.
fn channels_follow() -> Error {
    let what = "transformers' class of this model computes its channels as four times its width: no config.json can say another \
                number";
    Error::unsupported(what, "take layers out: --method depth, or set weights to zero: --method sparsegpt")
}

/// Sets every name of a setting that is there, or the first.
fn set(config: &mut Map<String, Value>, keys: &[&str], value: usize) {
    if let Some(first) = keys.first().filter(|_| !keys.iter().any(|key| config.contains_key(*key))) {
        config.insert((*first).to_owned(), Value::Null);
    }
    change(config, keys, |found| *found = value.into());
}

/// Layers are numbered anew: lists lose entries, and rules by number become lists.
fn edit_layers(config: &mut Map<String, Value>, kept: &Kept, knife: &Knife) {
    let (before, after) = (knife.model.layers.len(), kept.numbers().len());
    let windows: Vec<bool> = knife.model.layers.iter().map(|layer| layer.mixer.window().is_some()).collect();
    if windows.contains(&true) && windows.contains(&false) && !config.contains_key("layer_types") {
        let kind = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
        config.insert("layer_types".into(), windows.iter().map(kind).collect());
    }
    change(config, &LISTS, |list| match list.as_array() {
        Some(all) if all.len() == before => {
            *list = kept.numbers().iter().map(|layer| all[*layer as usize].clone()).collect();
        }
        _ => {}
    });
    let dense = (0..before).filter(|layer| knife.sizes.experts[*layer].is_none());
    let dense: Vec<Value> = dense.map(Value::from).collect();
    if dense.len() < before && config.contains_key("decoder_sparse_step") {
        config.insert("decoder_sparse_step".into(), 1.into());
        config.insert("mlp_only_layers".into(), dense.into());
    }
    let place = |number: &Value| Some(Value::from(kept.place(number.as_u64()? as u32)?));
    change(config, &NUMBERS, |list| {
        if let Some(all) = list.as_array() {
            *list = all.iter().filter_map(place).collect();
        }
    });
    if let Some(last) = config.get_mut("max_window_layers") {
        *last = last.as_u64().map_or(last.clone(), |number| number.min(after as u64).into());
    }
    if !LAYERS.iter().any(|key| config.contains_key(*key)) {
        config.insert(LAYERS[0].into(), Value::Null);
    }
    change(config, &LAYERS, |count| *count = after.into());
}

/// Changes the settings of these names that are there.
fn change(config: &mut Map<String, Value>, keys: &[&str], mut edit: impl FnMut(&mut Value)) {
    for key in keys {
        config.get_mut(*key).into_iter().for_each(&mut edit);
    }
}
