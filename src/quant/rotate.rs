//! `rotate`: rotates the residual stream, so that no coordinate has outliers.
//!
//! **What.** The stream x becomes x·R, R a Hadamard matrix with random signs (Kronecker product with a random orthogonal
//! one where no Hadamard matrix of the width is known): the scale of each norm is multiplied into the linears that read it,
//! their columns are turned (W·R), the rows and biases of the linears that write to the stream turned back (Rᵀ·W), the
//! embedding and the head likewise. With `heads`, v's rows and o's columns are turned within each head by a matrix of its
//! width. The model computes the same: RMSNorm without scale commutes with rotations. The weights stay dense, for another
//! method to round.
//!
//! **Why.** Outliers of weights and activations sit in few coordinates of the stream; spread over all, they cost no range.
//!
//! **When.** Before `gptq` or `rtn` at 4 bits and fewer, and for INT8 activations. Engines need no support: nothing is
//! turned while the model runs, which leaves the inputs of down as they were. A tied head becomes a matrix of its own.
//!
//! **Cost.** Seconds; no data.
//!
//! **Limits.** Models with RMSNorm before each sub-layer and nowhere else on the stream (Llama, Mistral, Qwen, Phi-3, Gemma
//! 1, their mixtures of experts): LayerNorm subtracts a mean, and norms behind a sub-layer (Gemma 2, OLMo 2) scale
//! coordinates of the stream, neither of which a rotation passes through.
//!
//! Reference: Ashkboos et al. 2024, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs",
//! <https://arxiv.org/abs/2404.00456>, the stages that are computed offline.

use std::sync::Arc;

use ndarray::{Array2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{Feeder, Fold};
use crate::numerics::hadamard::Rotation;
use crate::stage::{self, Block, Def, Editor, Edits, Ends, Rewrite, Stage};

/// Registry entry.
pub const DEF: Def = Def {
    name: "rotate",
    summary: "turn the residual stream and heads so that outliers vanish: the model computes the same, no data",
    supports: |_| Ok(()),
    build: |table| Ok(Stage::Rewrite(Arc::new(stage::parse::<Rotate>("rotate", table)?))),
};

/// Rotation of the residual stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rotate {
    /// Seed of the random signs.
    pub seed: u64,
    /// True to rotate v and o within each head too.
    pub heads: bool,
}

impl Default for Rotate {
    fn default() -> Self {
        Rotate { seed: 0, heads: true }
    }
}

impl Rewrite for Rotate {
    fn rewrite(&self, block: &Block) -> Result<Edits> {
        check(block)?;
        let mut editor = Editor::new(block);
        for fold in &block.folds {
            match (fold.feeder, fold.head_dim) {
                (Feeder::Norm(norm), _) => self.turn_readers(&mut editor, norm, fold)?,
                (Feeder::Linear(v), Some(head_dim)) if self.heads => {
                    self.turn_heads(&mut editor, v, head_dim, fold)?;
                }
                _ => {}
            }
        }
        for (index, linear) in block.linears.iter().enumerate().filter(|(_, linear)| linear.writes_residual) {
            let rotation = Rotation::new(linear.dense()?.nrows(), self.seed);
            turn_outputs(&mut editor, index, 0, &rotation)?;
        }
        Ok(editor.finish())
    }

    fn keeps_zeros(&self) -> bool {
        false
    }

    fn ends(&self) -> Option<&dyn Ends> {
        Some(self)
    }
}

impl Ends for Rotate {
    fn embedding(&self, rows: &mut Array2<f32>) -> Result<()> {
        let rotation = Rotation::new(rows.ncols(), self.seed);
        turn_rows(rows.view_mut(), &rotation);
        Ok(())
    }

    fn head(&self, rows: &mut Array2<f32>, final_norm: &[f32]) -> Result<()> {
        *rows *= &ndarray::aview1(final_norm);
        self.embedding(rows)
    }
}

impl Rotate {
    /// Multiplies a norm's scale into its readers, and turns their columns.
    fn turn_readers(&self, editor: &mut Editor, norm: usize, fold: &Fold) -> Result<()> {
        let weight = std::mem::take(&mut editor.norm_mut(norm).weight);
        let rotation = Rotation::new(weight.len(), self.seed);
        for &reader in &fold.readers {
            let values = editor.weight_mut(reader)?;
            *values *= &ndarray::aview1(&weight);
            turn_rows(values.view_mut(), &rotation);
        }
        editor.norm_mut(norm).weight = vec![1.0; weight.len()];
        Ok(())
    }

    /// Turns the rows of v and the columns of o within each head.
    fn turn_heads(&self, editor: &mut Editor, v: usize, head_dim: usize, fold: &Fold) -> Result<()> {
        let rotation = Rotation::new(head_dim, self.seed);
        for &o in &fold.readers {
            let values = editor.weight_mut(o)?;
            values.axis_chunks_iter_mut(Axis(1), head_dim).for_each(|head| turn_rows(head, &rotation));
        }
        let mut heads: Vec<u32> = fold.columns.iter().copied().step_by(head_dim).collect();
        heads.dedup();
        heads.iter().try_for_each(|&row| turn_outputs(editor, v, row as usize, &rotation))
    }
}

/// Refuses blocks with an operation on the residual stream that does not commute with rotations.
fn check(block: &Block) -> Result<()> {
    if let Some(norm) = block.norms.iter().find(|norm| norm.place.centered || norm.bias.is_some()) {
        return Err(refusal(
            &norm.place.weight,
            "is a LayerNorm, which subtracts the mean of the coordinates",
        ));
    }
    let reads_norm = |index: usize| {
        let mut of_norms = block.folds.iter().filter(|fold| matches!(fold.feeder, Feeder::Norm(_)));
        of_norms.any(|fold| fold.readers.contains(&index))
    };
    let feeds = |index: usize| {
        block
            .folds
            .iter()
            .any(|fold| fold.readers.contains(&index) && matches!(fold.feeder, Feeder::Linear(_)))
    };
    for (index, linear) in block.linears.iter().enumerate() {
        if !linear.writes_residual && !reads_norm(index) {
            let problem = match feeds(index) {
                true => "writes to the residual stream through a norm",
                false => "reads the residual stream without a norm before it",
            };
            return Err(refusal(&linear.name, problem));
        }
    }
    Ok(())
}

fn refusal(name: &str, problem: &str) -> Error {
    Error::unsupported(
        format!("{name} {problem}: rotate cannot turn this model"),
        "leave the stage out; gptq and awq need none before them",
    )
}

/// x·R of every row, [rows, width].
fn turn_rows(mut rows: ArrayViewMut2<f32>, rotation: &Rotation) {
    let rows: Vec<_> = rows.rows_mut().into_iter().collect();
    rows.into_par_iter().for_each(|mut row| {
        let mut turned = row.to_vec();
        rotation.apply(&mut turned);
        row.assign(&ndarray::aview1(&turned));
    });
}

/// Rᵀ·W of as many rows as R turns, from `first` on, and of the bias.
fn turn_outputs(editor: &mut Editor, linear: usize, first: usize, rotation: &Rotation) -> Result<()> {
    let outputs = first..first + rotation.width();
    let columns = editor.weight_mut(linear)?.slice_mut(s![outputs.clone(), ..]).reversed_axes();
    turn_rows(columns, rotation);
    if let Some(bias) = editor.bias_mut(linear) {
        rotation.apply(&mut bias[outputs]);
    }
    Ok(())
}
