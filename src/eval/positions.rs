//! The score of each target, as arrays in a safetensors file: `nll` f32, `token` u32 (the target), `position` u32 (its index in
//! the tokenized text); with a base also `kld` and `delta_p` f32, and `same_top` bool.

use std::path::Path;

use serde_json::Value;

use super::arrays::{Array, ArrayFile};
use super::perplexity::WindowedText;
use super::summary::Score;
use crate::error::Result;
use crate::tensor::DType;

/// A file of scores. It is created before the evaluation, so that a path that cannot be written fails early.
#[derive(Debug)]
pub(crate) struct PositionFile {
    file: ArrayFile,
    has_base: bool,
}

impl PositionFile {
    /// Creates the file for the targets of a text.
    pub(crate) fn create(
        path: &Path,
        text: &WindowedText,
        has_base: bool,
        metadata: Value,
    ) -> Result<PositionFile> {
        let array = |name, dtype| Array { name, dtype, shape: vec![text.targets()] };
        let mut arrays = vec![array("nll", DType::F32)];
        if has_base {
            arrays.extend([array("kld", DType::F32), array("delta_p", DType::F32)]);
        }
        arrays.extend([array("token", DType::U32), array("position", DType::U32)]);
        if has_base {
            arrays.push(array("same_top", DType::Bool));
        }
        Ok(PositionFile { file: ArrayFile::create(path, &arrays, metadata)?, has_base })
    }

    /// Writes the scores of the same text and completes the file.
    pub(crate) fn write(self, text: &WindowedText, scores: &[Score]) -> Result<()> {
        let PositionFile { mut file, has_base } = self;
        let float = |value: f64| (value as f32).to_le_bytes();
        let base_scores = || scores.iter().filter_map(|score| score.base);
        let targets = || text.windows.iter().flat_map(|window| window.targets.clone());
        file.write(scores.iter().map(|score| float(score.nll)))?;
        if has_base {
            file.write(base_scores().map(|base| float(base.kld)))?;
            file.write(scores.iter().filter_map(Score::delta_p).map(float))?;
        }
        file.write(targets().map(|target| text.tokens[target].to_le_bytes()))?;
        file.write(targets().map(|target| (target as u32).to_le_bytes()))?;
        if has_base {
            file.write(base_scores().map(|base| [u8::from(base.same_top)]))?;
        }
        file.finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::eval::summary::BaseScore;
    use crate::eval::windows::Protocol;

    #[test]
    fn arrays_have_one_element_per_target() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("positions.safetensors");
        let tokens = [50, 51, 52, 53, 54, 55, 56, 57];
        let windows = Protocol::Chunks { context: 4 }.windows(8).unwrap();
        let task = WindowedText { tokens: &tokens, windows: &windows, first: None, batch: 1 };
        let base = Some(BaseScore { nll: 2f64.ln(), kld: 0.5, same_top: true });
        let scores = [Score { nll: 4f64.ln(), base }, Score { nll: 2f64.ln(), base }];
        let file = PositionFile::create(&path, &task, true, serde_json::json!({})).unwrap();
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
