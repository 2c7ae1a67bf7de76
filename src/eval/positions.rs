//! What each target scored, as arrays of a safetensors file: `nll` f32, `token` u32 (the token that stands there), `position`
//! u32 (its place in the tokenized text); beside a base also `kld` and `delta_p` f32, and `same_top` bool.

use std::path::Path;

use serde_json::Value;

use super::arrays::{Array, Arrays};
use super::perplexity::Task;
use super::summary::{Against, Score};
use crate::error::Result;
use crate::tensor::DType;

/// A file of scores, begun before the work so that a path that cannot be written to is found out first.
#[derive(Debug)]
pub struct Positions {
    file: Arrays,
    beside_base: bool,
}

impl Positions {
    /// Begins the file for the targets of a task.
    pub fn create(path: &Path, task: &Task, beside_base: bool, metadata: Value) -> Result<Positions> {
        let of = |name, dtype| Array { name, dtype, shape: vec![task.targets()] };
        let mut arrays = vec![of("nll", DType::F32)];
        if beside_base {
            arrays.extend([of("kld", DType::F32), of("delta_p", DType::F32)]);
        }
        arrays.extend([of("token", DType::U32), of("position", DType::U32)]);
        if beside_base {
            arrays.push(of("same_top", DType::Bool));
        }
        Ok(Positions { file: Arrays::create(path, &arrays, metadata)?, beside_base })
    }

    /// Writes the scores of the same task, and ends the file.
    pub fn write(self, task: &Task, scores: &[Score]) -> Result<()> {
        let Positions { mut file, beside_base } = self;
        let float = |value: f64| (value as f32).to_le_bytes();
        let against = || scores.iter().filter_map(|score| score.against);
        let targets = || task.windows.iter().flat_map(|window| window.targets.clone());
        file.write(scores.iter().map(|score| float(score.nll)))?;
        if beside_base {
            file.write(against().map(|Against { kld, .. }| float(kld)))?;
            file.write(scores.iter().filter_map(Score::delta_p).map(float))?;
        }
        file.write(targets().map(|target| task.tokens[target].to_le_bytes()))?;
        file.write(targets().map(|target| (target as u32).to_le_bytes()))?;
        if beside_base {
            file.write(against().map(|Against { same_top, .. }| [u8::from(same_top)]))?;
        }
        file.finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::eval::windows::Protocol;

    #[test]
    fn arrays_run_along_the_targets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("positions.safetensors");
        let tokens = [50, 51, 52, 53, 54, 55, 56, 57];
        let windows = Protocol::Chunks { context: 4 }.windows(8).unwrap();
        let task = Task { tokens: &tokens, windows: &windows, first: None, batch: 1 };
        let against = Some(Against { nll: 2f64.ln(), kld: 0.5, same_top: true });
        let scores = [Score { nll: 4f64.ln(), against }, Score { nll: 2f64.ln(), against }];
        let file = Positions::create(&path, &task, true, serde_json::json!({})).unwrap();
        file.write(&task, &scores).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let found = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<[u8; 4]> {
            found.tensor(name).unwrap().data().chunks(4).map(|word| word.try_into().unwrap()).collect()
        };
        let floats = |name: &str| words(name).into_iter().map(f32::from_le_bytes).collect::<Vec<_>>();
        let integers = |name: &str| words(name).into_iter().map(u32::from_le_bytes).collect::<Vec<_>>();
        assert_eq!(integers("position"), [3, 7]);
        assert_eq!(integers("token"), [53, 57]);
        assert_eq!(floats("nll"), [4f32.ln(), 2f32.ln()]);
        assert_eq!(floats("delta_p"), [-0.25, 0.0]);
        assert_eq!(floats("kld"), [0.5, 0.5]);
        assert_eq!(found.tensor("same_top").unwrap().data(), [1, 1]);
    }
}
