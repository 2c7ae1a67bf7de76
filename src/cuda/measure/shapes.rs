//! Shapes of the linear layers of widely used models, as engines multiply them: q, k and v in one, gate and up in one.

use crate::error::{Error, Result};

/// A linear layer: n outputs of k inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The model, as `--shapes` names it.
    pub model: &'static str,
    /// The layer in the model.
    pub name: String,
    /// [n, k].
    pub shape: [usize; 2],
}

/// The dimensions of a model's layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dimensions {
    /// Name of the model, as `--shapes` takes it.
    pub name: &'static str,
    hidden: usize,
    /// Query heads; key and value heads.
    heads: [usize; 2],
    head_dim: usize,
    intermediate: usize,
}

const fn model(
    name: &'static str,
    hidden: usize,
    heads: [usize; 2],
    head_dim: usize,
    intermediate: usize,
) -> Dimensions {
    Dimensions { name, hidden, heads, head_dim, intermediate }
}

/// Dimensions from the models' config.json on the Hugging Face hub.
pub(crate) const MODELS: [Dimensions; 7] = [
    model("llama-7b", 4096, [32, 32], 128, 11008),
    model("llama-8b", 4096, [32, 8], 128, 14336),
    model("llama-70b", 8192, [64, 8], 128, 28672),
    model("qwen2.5-7b", 3584, [28, 4], 128, 18944),
    model("qwen3-8b", 4096, [32, 8], 128, 12288),
    model("qwen3-32b", 5120, [64, 8], 128, 25600),
    model("mistral-24b", 5120, [32, 8], 128, 32768),
];

/// Two square sizes that are often used to compare kernels.
const SQUARES: [usize; 2] = [4096, 8192];

impl Dimensions {
    fn layers(self) -> [Layer; 4] {
        let [queries, key_values] = self.heads.map(|heads| heads * self.head_dim);
        let layer = |name: &str, shape| Layer { model: self.name, name: name.to_owned(), shape };
        [
            layer("qkv", [queries + 2 * key_values, self.hidden]),
            layer("o", [self.hidden, queries]),
            layer("gate+up", [2 * self.intermediate, self.hidden]),
            layer("down", [self.hidden, self.intermediate]),
        ]
    }
}

/// Returns the layers of models by name, `square` for two squares, or one layer by its shape: `4096x14336`, outputs and
/// inputs. Returns each shape once.
///
/// # Errors
/// If a name is not in the list.
pub(crate) fn layers(names: &[String]) -> Result<Vec<Layer>> {
    let mut found: Vec<Layer> = Vec::new();
    for name in names {
        let model = MODELS.iter().find(|model| model.name == name);
        let layers = match (model, name.as_str()) {
            (Some(model), _) => model.layers().to_vec(),
            (None, "square") => SQUARES.map(square).to_vec(),
            (None, _) => vec![own(name).ok_or_else(|| unknown(name))?],
        };
        for layer in layers {
            if found.iter().all(|other| other.shape != layer.shape) {
                found.push(layer);
            }
        }
    }
    Ok(found)
}

fn square(side: usize) -> Layer {
    Layer { model: "square", name: format!("{side}²"), shape: [side, side] }
}

/// Parses a shape as a layer.
fn own(name: &str) -> Option<Layer> {
    let (n, k) = name.split_once(['x', '×'])?;
    let shape = [n.parse().ok()?, k.parse().ok()?];
    shape.iter().all(|size| *size > 0).then(|| Layer { model: "own", name: name.to_owned(), shape })
}

fn unknown(name: &str) -> Error {
    let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
    let hint = format!("there are square, {}; or give outputs x inputs: 4096x14336", names.join(", "));
    Error::usage(format!("--shapes: no model {name}"), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_those_of_the_checkpoints() {
        let of = |name: &str| {
            layers(&[name.to_owned()]).map(|all| all.iter().map(|l| l.shape).collect::<Vec<_>>())
        };
        let llama = of("llama-70b").expect("it is in the list");
        assert_eq!(llama, [[10240, 8192], [8192, 8192], [57344, 8192], [8192, 28672]]);
        let qwen = of("qwen3-32b").expect("it is in the list");
        assert_eq!(qwen, [[10240, 5120], [5120, 8192], [51200, 5120], [5120, 25600]]);
    }

    #[test]
    fn a_shape_is_measured_once_and_unknown_models_are_named() {
        let names = |names: &[&str]| layers(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let all = names(&["square", "llama-8b", "llama-70b", "square"]).expect("they are in the list");
        assert_eq!(all.len(), 2 + 3 + 3, "o of both models is a square");
        let own = names(&["128x300"]).expect("it is a shape");
        assert_eq!((own.len(), own[0].shape), (1, [128, 300]));
        for wrong in ["128x", "0x4", "4096", "x"] {
            let error = names(&[wrong]).expect_err(wrong).to_string();
            assert!(error.ends_with(&format!("no model {wrong}")), "{error}");
        }
        let error = names(&["llama-9b"]).expect_err("there is none");
        assert!(
            error.to_string().contains("llama-9b") && error.hint().is_some_and(|h| h.contains("llama-70b"))
        );
    }
}
