//! The tensors that config.json promises, compared with those of a file.

use serde_json::Value;

use super::arch::Arch;
use super::axes::Axis;
use super::description::Model;
use super::feed_forward::FeedForward;
use super::frame::Frame;
use super::layer::Layer;
use super::mixer::Mixer;
use super::names::{Network, TensorName, TensorRole};
use super::registry;
use super::rope::Rope;
use super::settings::{SettingKeys, Settings};
use super::weights::{Location, Tensors, Weights, misshapen};
use crate::error::{CHECKPOINT, Error, Result};

/// Checks that a file has the tensors of the model that config.json describes, in their shapes. Returns the number of layers;
/// `None` for a model that llmc does not run, of which it cannot tell.
///
/// # Errors
/// A tensor that is missing or of another shape; a setting of a wrong type, or that no model can have.
pub(crate) fn check_promise(config: &Value, weights: &dyn Weights) -> Result<Option<usize>> {
    let Some((arch, text)) = language_model(config) else { return Ok(None) };
    let settings = registry::with_defaults(arch, text);
    let model = configure(&settings).map_err(|error| match std::ptr::eq(config, text) {
        true => error,
        false => error.in_section(TEXT_CONFIG),
    })?;
    let Some(model) = model else { return Ok(None) };
    let tensors = Tensors::new(weights, &model.frame);
    // Larger models have many names for the one inside: where none of ours fits, nothing can be told.
    if !std::ptr::eq(config, text) && !tensors.has(model.frame.embedding.tokens, Location::default()) {
        return Ok(None);
    }
    let classes = config.get("architectures");
    let keys = &arch.outline.keys;
    let promise = Promise { settings: Settings(&settings), keys, classes, model: &model, weights, tensors };
    promise.check_frame()?;
    promise.check_layers()?;
    Ok(Some(model.layers.len()))
}

/// The settings of the language model inside a larger one.
const TEXT_CONFIG: &str = "text_config";

/// The architecture that config.json names, or that of the language model inside a larger one, with its settings.
pub(crate) fn language_model(config: &Value) -> Option<(&'static Arch, &Value)> {
    let inner = config.get(TEXT_CONFIG);
    [Some(config), inner].into_iter().flatten().find_map(|config| Some((registry::find(config)?, config)))
}

/// Describes the model; `None` where it has a setting that llmc does not follow, or lacks one.
fn configure(config: &Value) -> Result<Option<Model>> {
    Rope::check(&Settings(config))?;
    match registry::configure(config) {
        Ok(model) => Ok(Some(model)),
        Err(error @ Error::Malformed { .. }) => Err(error),
        Err(_) => Ok(None),
    }
}

struct Promise<'a> {
    settings: Settings<'a>,
    keys: &'a SettingKeys,
    /// The model's classes, by config.json.
    classes: Option<&'a Value>,
    model: &'a Model,
    weights: &'a dyn Weights,
    tensors: Tensors<'a>,
}

impl Promise<'_> {
    fn check_frame(&self) -> Result<()> {
        let frame = &self.model.frame;
        let table = &frame.embedding;
        let name = |name: &str| self.full_name(name, Location::default());
        let width = table.projections.is_none().then_some(self.model.hidden);
        let vocabulary = self.settings.optional_size(&["vocab_size"])?;
        self.check_shape(&name(table.tokens), [vocabulary, width])?;
        if let Some(positions) = table.positions {
            let rows = self.model.context.map(|context| context + positions.offset);
            self.check_shape(&name(positions.name), [rows, Some(self.model.hidden)])?;
        }
        if let Some(norm) = frame.final_norm {
            self.check_norm(&name(norm), self.model.hidden)?;
        }
        match frame.head {
            Some(head) if !frame.tied && self.promises_head() => {
                self.check_shape(&format!("{head}.weight"), [vocabulary, width])
            }
            _ => Ok(()),
        }
    }

    /// Returns true if the model's class has a head. The files of bare models have none, whatever their class: embedding
    /// models name the one that they were made from.
    fn promises_head(&self) -> bool {
        let Frame { base, embedding, .. } = &self.model.frame;
        if self.weights.shape(&format!("{base}{}.weight", embedding.tokens)).is_none() {
            return false;
        }
        let classes = self.classes.and_then(Value::as_array).into_iter().flatten();
        classes.filter_map(Value::as_str).any(|class| class.ends_with("ForCausalLM"))
    }

    fn check_layers(&self) -> Result<()> {
        let layers = || self.model.layers.iter().enumerate();
        let has = |block: usize, name: &TensorName| self.has(name, Location { block, part: 0 });
        for (block, layer) in layers() {
            for name in self.layer_tensors(layer, block) {
                let is_anywhere = || layers().any(|(other, _)| has(other, &name));
                if is_required(name.role) || is_anywhere() {
                    self.check_tensor(layer, &name, block)?;
                }
            }
        }
        Ok(())
    }

    /// The tensors of a block. One without a router has a network of its own in the place of experts.
    fn layer_tensors(&self, layer: &Layer, block: usize) -> Vec<TensorName> {
        match layer.feed_forward {
            FeedForward::Experts(experts)
                if !self.tensors.has(experts.router, Location { block, part: 0 }) =>
            {
                Layer { feed_forward: FeedForward::Gated(experts.dense), ..*layer }.tensors()
            }
            _ => layer.tensors(),
        }
    }

    fn check_tensor(&self, layer: &Layer, name: &TensorName, block: usize) -> Result<()> {
        if name.role.is_norm() {
            let len = norm_len(layer, name, self.model.hidden);
            return self.check_norm(&self.full_name(name.hf, Location { block, part: 0 }), len);
        }
        let [outputs, inputs] = self.expected_shape(layer, name.role)?;
        let shape = if self.model.frame.transposed { [inputs, outputs] } else { [outputs, inputs] };
        (0..parts(layer, name))
            .try_for_each(|part| self.check_shape(&self.full_name(name.hf, Location { block, part }), shape))
    }

    /// [outputs, inputs] of a linear of a layer, where the settings give them.
    fn expected_shape(&self, layer: &Layer, role: TensorRole) -> Result<[Option<usize>; 2]> {
        let [outputs, inputs] = role.axes();
        Ok([self.size(layer, outputs)?, self.size(layer, inputs)?])
    }

    /// The length of an axis in a layer, where the settings give it.
    fn size(&self, layer: &Layer, axis: Option<Axis>) -> Result<Option<usize>> {
        let Mixer::Attention(attention) = layer.mixer;
        let (q, kv) = (attention.q_width(), attention.kv_width());
        Ok(match axis {
            None | Some(Axis::Vocabulary) => None,
            Some(Axis::One) => Some(1),
            Some(Axis::Hidden) => Some(self.model.hidden),
            Some(Axis::Queries) => Some(q),
            Some(Axis::KeyValues) => Some(kv),
            Some(Axis::QueriesKeysValues) => Some(q + 2 * kv),
            Some(Axis::Channels(network)) => self.width(network)?,
            Some(Axis::GatesAndChannels(network)) => self.width(network)?.map(|width| 2 * width),
            Some(Axis::Experts) => experts(layer),
        })
    }

    /// The width of a feed-forward network, where config.json gives it.
    fn width(&self, network: Network) -> Result<Option<usize>> {
        self.settings.optional_size(match network {
            Network::Dense => self.keys.feed_forward,
            Network::Expert => self.keys.expert_feed_forward,
            Network::Shared => &["shared_expert_intermediate_size"],
        })
    }

    /// Checks that a norm, where it is a vector, has a weight for each of so many columns.
    fn check_norm(&self, name: &str, len: usize) -> Result<()> {
        let found = self.weights.shape(name).ok_or_else(|| missing(name, self.model.layers.len()))?;
        match found.as_slice() {
            [found] if *found != len => Err(misshapen(name, format!("[{len}]"), format!("[{found}]"))),
            _ => Ok(()),
        }
    }

    fn has(&self, name: &TensorName, at: Location) -> bool {
        self.weights.shape(&self.full_name(name.hf, at)).is_some()
    }

    fn full_name(&self, pattern: &str, at: Location) -> String {
        self.tensors.weight(&self.tensors.name(pattern, at))
    }

    /// Checks a matrix of [rows, columns], of which either may be open.
    fn check_shape(&self, name: &str, expected: [Option<usize>; 2]) -> Result<()> {
        let Some(found) = self.weights.shape(name) else {
            return Err(missing(name, self.model.layers.len()));
        };
        let is_as = |(size, stored): (&Option<usize>, &usize)| size.is_none_or(|size| size == *stored);
        let fits = found.len() != 2 || expected.iter().zip(&found).all(is_as);
        let shown = expected.map(|size| size.map_or("any".to_owned(), |size| size.to_string())).join(" x ");
        if fits { Ok(()) } else { Err(misshapen(name, shown, format!("{found:?}"))) }
    }
}

fn missing(name: &str, layers: usize) -> Error {
    let hint = "config.json does not belong to these weights, or the download is not complete; move config.json away \
                to treat the weights as a model of no known architecture";
    let expected = format!("a tensor of the model of {layers} layers that config.json describes");
    Error::malformed_tensor(CHECKPOINT, name, expected, "none of that name", hint)
}

/// Returns true for linears that a layer cannot do without. Experts may be stored as one stack.
fn is_required(role: TensorRole) -> bool {
    use TensorRole::{AttentionOutput, Down, Gate, GateUp, Key, Query, QueryKeyValue, Up, Value};
    match role {
        Query | Key | Value | QueryKeyValue | AttentionOutput => true,
        Gate(network) | Up(network) | GateUp(network) | Down(network) => network == Network::Dense,
        _ => false,
    }
}

/// The parts of a tensor that is numbered within its layer.
fn parts(layer: &Layer, name: &TensorName) -> usize {
    match layer.feed_forward {
        FeedForward::Experts(_) if name.is_stacked() && !name.role.is_norm() => experts(layer).unwrap_or(1),
        _ => 1,
    }
}

/// The number of a layer's experts, where the settings give it.
fn experts(layer: &Layer) -> Option<usize> {
    match layer.feed_forward {
        FeedForward::Experts(experts) => experts.choice.map(|choice| choice.count),
        _ => None,
    }
}

/// The columns that a norm of a layer runs over.
fn norm_len(layer: &Layer, name: &TensorName, hidden: usize) -> usize {
    let Mixer::Attention(attention) = layer.mixer;
    let whole = attention.norms.is_some_and(|norms| norms.whole);
    match name.role {
        TensorRole::QueryNorm if whole => attention.q_width(),
        TensorRole::KeyNorm if whole => attention.kv_width(),
        TensorRole::QueryNorm | TensorRole::KeyNorm => attention.head_dim,
        _ => hidden,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::backend::Matrix;

    /// Shapes by name.
    struct Shapes(BTreeMap<String, Vec<usize>>);

    impl Weights for Shapes {
        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.0.get(name).cloned()
        }
        fn matrix(&self, _: &str) -> Result<Arc<dyn Matrix>> {
            unreachable!("the shapes are enough")
        }
        fn vector(&self, _: &str) -> Result<Vec<f32>> {
            unreachable!("the shapes are enough")
        }
    }

    fn config() -> Value {
        json!({ "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "vocab_size": 16,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 12,
            "tie_word_embeddings": false })
    }

    fn shapes() -> Shapes {
        let mut shapes = BTreeMap::new();
        let mut put = |name: String, shape: &[usize]| shapes.insert(format!("{name}.weight"), shape.to_vec());
        put("model.embed_tokens".into(), &[16, 8]);
        put("model.norm".into(), &[8]);
        put("lm_head".into(), &[16, 8]);
        for layer in 0..2 {
            let mut put = |name: &str, shape: &[usize]| put(format!("model.layers.{layer}.{name}"), shape);
            put("input_layernorm", &[8]);
            put("post_attention_layernorm", &[8]);
            put("self_attn.q_proj", &[8, 8]);
            put("self_attn.k_proj", &[4, 8]);
            put("self_attn.v_proj", &[4, 8]);
            put("self_attn.o_proj", &[8, 8]);
            put("mlp.gate_proj", &[12, 8]);
            put("mlp.up_proj", &[12, 8]);
            put("mlp.down_proj", &[8, 12]);
        }
        Shapes(shapes)
    }

    fn refused(config: &Value, shapes: &Shapes) -> String {
        check_promise(config, shapes).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_model_keeps_its_promise() {
        assert_eq!(check_promise(&config(), &shapes()).unwrap(), Some(2));
        let unknown = json!({ "model_type": "unheard_of" });
        assert_eq!(check_promise(&unknown, &shapes()).unwrap(), None);
    }

    #[test]
    fn every_missing_tensor_is_named() {
        for name in shapes().0.keys() {
            let mut shapes = shapes();
            shapes.0.remove(name);
            assert!(refused(&config(), &shapes).contains(name), "{name}");
        }
    }

    #[test]
    fn a_layer_too_few_is_named() {
        let mut config = config();
        config["num_hidden_layers"] = 3.into();
        assert!(refused(&config, &shapes()).contains("model.layers.2."));
    }

    #[test]
    fn a_head_is_promised_by_the_class() {
        let mut shapes = shapes();
        shapes.0.remove("lm_head.weight");
        for (key, value) in [("architectures", json!(["LlamaModel"])), ("tie_word_embeddings", json!(true))] {
            let mut config = config();
            config[key] = value;
            assert_eq!(check_promise(&config, &shapes).unwrap(), Some(2), "{key}");
        }
        let bare = |(name, shape): (String, Vec<usize>)| (name.replacen("model.", "", 1), shape);
        let bare = Shapes(shapes.0.into_iter().map(bare).collect());
        assert_eq!(check_promise(&config(), &bare).unwrap(), Some(2), "an embedding model");
    }

    #[test]
    fn settings_that_contradict_the_weights_are_named() {
        let check = |key: &str, value: usize, expected: &str| {
            let mut config = config();
            config[key] = value.into();
            let message = refused(&config, &shapes());
            assert!(message.contains(expected), "{key}: {message}");
        };
        check("vocab_size", 17, "model.embed_tokens.weight: expected 17 x 8, found [16, 8]");
        check("hidden_size", 16, "model.embed_tokens.weight: expected 16 x 16");
        check("head_dim", 8, "q_proj.weight: expected 16 x 8");
        check("num_key_value_heads", 2, "k_proj.weight: expected 8 x 8");
        check("intermediate_size", 16, "mlp.gate_proj.weight: expected 16 x 8");
    }

    #[test]
    fn norms_are_as_wide_as_the_model() {
        for name in ["model.norm", "model.layers.1.input_layernorm"] {
            let mut shapes = shapes();
            shapes.0.insert(format!("{name}.weight"), vec![4]);
            assert!(refused(&config(), &shapes).contains(&format!("{name}.weight: expected [8], found [4]")));
        }
    }

    /// A mistyped setting is named with what was expected and found; an absent or unsupported one promises nothing.
    #[test]
    fn mistyped_settings_are_errors_and_others_promise_nothing() {
        let check = |key: &str, value: Value, expected: &str| {
            let mut config = config();
            config[key] = value;
            let message = refused(&config, &shapes());
            assert!(message.starts_with("config.json: ") && message.contains(expected), "{key}: {message}");
        };
        check("hidden_size", json!("8"), "hidden_size: expected a whole number, found \"8\"");
        check("num_attention_heads", json!(0), "num_attention_heads: expected a positive number, found 0");
        check("num_key_value_heads", json!(true), "num_key_value_heads: expected a whole number, found true");
        check("head_dim", json!(0), "head_dim: expected a positive number");
        check("vocab_size", json!(16.5), "vocab_size: expected a whole number, found 16.5");
        check("intermediate_size", json!([12]), "intermediate_size: expected a whole number");
        check("rms_norm_eps", json!("1e-5"), "rms_norm_eps: expected a number, found \"1e-5\"");
        check("rms_norm_eps", json!(-1e-5), "rms_norm_eps: expected a number of at least 0");
        check("rms_norm_eps", json!(1e300), "rms_norm_eps: expected a number");
        check("rope_theta", json!("500"), "rope_theta: expected a number, found \"500\"");
        check("rope_theta", json!(-1), "rope_theta: expected a number above 0");
        check("rope_scaling", json!(8), "rope_scaling: expected an object, found 8");
        check("rope_scaling", json!({ "type": 1 }), "type: expected a text");
        check("rope_scaling", json!({ "type": "llama3" }), "factor: expected a number");
        check(
            "rope_scaling",
            json!({ "type": "longrope", "short_factor": 1 }),
            "short_factor: expected a list",
        );
        check("tie_word_embeddings", json!("false"), "tie_word_embeddings: expected true or false");
        check("hidden_act", json!(1), "hidden_act: expected a text");
        check("layer_types", json!("full_attention"), "layer_types: expected a list");
        let promises_nothing = |key: &str, value: Value| {
            let mut config = config();
            config[key] = value;
            assert_eq!(check_promise(&config, &shapes()).unwrap(), None, "{key}");
        };
        promises_nothing("hidden_size", Value::Null);
        promises_nothing("hidden_act", json!("relu6"));
        promises_nothing("layer_types", json!(["linear_attention", "full_attention"]));
    }

    /// The language model inside a larger one is held to its own settings, with the defaults of its class.
    #[test]
    fn the_text_model_of_a_larger_one_is_held_to_its_settings() {
        let mut text = config();
        text.as_object_mut().unwrap().remove("architectures");
        let whole = |text: &Value| json!({ "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": text });
        let inside = |(name, shape): (String, Vec<usize>)| {
            (name.replacen("model.", "model.language_model.", 1), shape)
        };
        let shapes = Shapes(shapes().0.into_iter().map(inside).collect());
        assert_eq!(check_promise(&whole(&text), &shapes).unwrap(), Some(2));
        text["num_hidden_layers"] = 3.into();
        assert!(refused(&whole(&text), &shapes).contains("model.language_model.layers.2."));
        text["num_hidden_layers"] = "2".into();
        let message = refused(&whole(&text), &shapes);
        assert!(message.contains("text_config.num_hidden_layers: expected a whole number"), "{message}");
        let gemma = json!({ "model_type": "gemma3_text", "hidden_size": 8, "num_hidden_layers": 1 });
        let completed = registry::with_defaults(&crate::model::architectures::gemma::GEMMA3, &gemma);
        assert_eq!((&completed["num_attention_heads"], &completed["head_dim"]), (&json!(8), &json!(256)));
    }
}
