//! The tensors that config.json promises, compared with those of a file.

use serde_json::Value;

use super::description::Model;
use super::feed_forward::FeedForward;
use super::frame::Frame;
use super::layer::Layer;
use super::mixer::Mixer;
use super::names::{Network, TensorName, TensorRole};
use super::registry;
use super::rope::Rope;
use super::settings::Settings;
use super::weights::{Location, Tensors, Weights, misshapen};
use crate::error::{Error, Result};

/// Checks that a file has the tensors of the model that config.json describes, in their shapes. Returns the number of layers;
/// `None` for a model that llmc does not run, of which it cannot tell.
///
/// # Errors
/// A tensor that is missing or of another shape; a setting of rope of a wrong type.
pub(crate) fn check_promise(config: &Value, weights: &dyn Weights) -> Result<Option<usize>> {
    if registry::find(config).is_some() {
        Rope::check(&Settings(config))?;
    }
    let Ok(model) = registry::configure(config) else { return Ok(None) };
    let tensors = Tensors::new(weights, &model.frame);
    let promise = Promise { config, model: &model, weights, tensors };
    promise.check_frame()?;
    promise.check_layers()?;
    Ok(Some(model.layers.len()))
}

struct Promise<'a> {
    config: &'a Value,
    model: &'a Model,
    weights: &'a dyn Weights,
    tensors: Tensors<'a>,
}

impl Promise<'_> {
    fn check_frame(&self) -> Result<()> {
        let frame = &self.model.frame;
        let embedding = self.full_name(frame.embedding.tokens, Location::default());
        let width = frame.embedding.projections.is_none().then_some(self.model.hidden);
        self.check_shape(&embedding, [self.vocabulary(), width])?;
        if let Some(norm) = frame.final_norm {
            self.check_shape(&self.full_name(norm, Location::default()), [None, None])?;
        }
        match frame.head {
            Some(head) if !frame.tied && self.promises_head() => {
                self.check_shape(&format!("{head}.weight"), [self.vocabulary(), None])
            }
            _ => Ok(()),
        }
    }

    fn vocabulary(&self) -> Option<usize> {
        let text = self.config.get("text_config").unwrap_or(self.config);
        usize::try_from(text.get("vocab_size")?.as_u64()?).ok()
    }

    /// Returns true if the model's class has a head. The files of bare models have none, whatever their class: embedding
    /// models name the one that they were made from.
    fn promises_head(&self) -> bool {
        let Frame { base, embedding, .. } = &self.model.frame;
        if self.weights.shape(&format!("{base}{}.weight", embedding.tokens)).is_none() {
            return false;
        }
        let classes = self.config.get("architectures").and_then(Value::as_array).into_iter().flatten();
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
        let [outputs, inputs] = expected_shape(layer, name.role, self.model.hidden);
        let shape = if self.model.frame.transposed { [inputs, outputs] } else { [outputs, inputs] };
        (0..parts(layer, name))
            .try_for_each(|part| self.check_shape(&self.full_name(name.hf, Location { block, part }), shape))
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
    Error::malformed_tensor("the checkpoint", name, expected, "none of that name", hint)
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
        FeedForward::Experts(experts) if name.is_stacked() && !name.role.is_norm() => {
            experts.choice.map_or(1, |choice| choice.count)
        }
        _ => 1,
    }
}

/// [outputs, inputs] of a linear of a layer, where the settings give them.
fn expected_shape(layer: &Layer, role: TensorRole, hidden: usize) -> [Option<usize>; 2] {
    use TensorRole::{AttentionOutput, Down, Gate, GateUp, Key, Query, QueryKeyValue, Up, Value};
    let Mixer::Attention(attention) = layer.mixer;
    let (q, kv) = (attention.q_width(), attention.kv_width());
    match role {
        Query => [Some(q), Some(hidden)],
        Key | Value => [Some(kv), Some(hidden)],
        QueryKeyValue => [Some(q + 2 * kv), Some(hidden)],
        AttentionOutput => [Some(hidden), Some(q)],
        Gate(_) | Up(_) | GateUp(_) => [None, Some(hidden)],
        Down(_) => [Some(hidden), None],
        _ => [None, None],
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
    }
}
