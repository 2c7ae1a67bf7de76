//! The conformance suite at every level, and the guarantees of this backend only: a row depends on no other row;
//! errors.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::backend::tests::{Tolerance, conformance, dense, layers::rotations, values};

/// Creates a backend that runs the kernels of a level; linear layers choose their level themselves.
fn at(level: Level, activations: Activations) -> Cpu {
    Cpu { level, ..Cpu::new(activations) }
}

#[test]
fn computes_what_the_reference_does() {
    let tolerance = Tolerance { dense: 1e-5, quantized: 1e-5, other: 1e-5 };
    for level in Level::usable() {
        conformance(&at(level, Activations::F32), tolerance);
    }
    // Inputs within ±2 of 8 bits, over 256 columns of weights within ±2: the standard deviation of the error is 0.08.
    conformance(&Cpu::new(Activations::Auto), Tolerance { dense: 2e-2, quantized: 0.3, ..tolerance });
}

/// Rows give the same bits alone, in a batch that runs in one piece, and in one that is divided among threads.
#[test]
fn a_row_does_not_depend_on_the_others() {
    let (rows, cols) = (70, 1030);
    let cpu = Cpu::new(Activations::F32);
    let table = cpu.load_table(dense(values(rows, cols, 1))).unwrap();
    let norm = |centered| {
        let [weight, bias] = [2, 3].map(|seed| values(1, cols, seed).into_raw_vec_and_offset().0);
        let norm = NormWeights { width: cols, weight, bias: Some(bias), epsilon: 1e-6, centered };
        cpu.load_norm(norm).unwrap()
    };
    let norms = [norm(false), norm(true)];
    let turn = rotations(rows, 5, 10);
    let compute = |ids: &[u32]| -> Vec<Vec<f32>> {
        let x = || cpu.embed(&table, ids).unwrap();
        let of_ids =
            |angles: &[f32]| ids.iter().flat_map(|&id| angles[id as usize * 5..][..5].to_vec()).collect();
        let turn = Rotations { cos: of_ids(&turn.cos), sin: of_ids(&turn.sin), ..turn.clone() };
        let [left, right] = cpu.split(&x(), [3, cols - 3]).unwrap();
        let results = [
            cpu.norm(&x(), &norms[0]).unwrap(),
            cpu.norm(&x(), &norms[1]).unwrap(),
            cpu.rope(x(), &turn).unwrap(),
            cpu.gate(&x(), Activation::Silu).unwrap(),
            cpu.activate(x(), Activation::Gelu).unwrap(),
            cpu.add(x(), &x()).unwrap(),
            left,
            right,
        ];
        results.iter().map(|result| result.data.to_vec()).collect()
    };
    let all = compute(&(0..rows as u32).collect::<Vec<_>>());
    for row in 0..rows {
        for (alone, all) in compute(&[row as u32]).iter().zip(&all) {
            assert_eq!(alone, &all[row * alone.len()..][..alone.len()], "row {row}");
        }
    }
}

#[test]
fn a_number_beyond_the_table_is_an_error() {
    let cpu = Cpu::new(Activations::Auto);
    let table = cpu.load_table(dense(values(5, 3, 1))).unwrap();
    let error = cpu.embed(&table, &[4, 5]).unwrap_err();
    assert!(error.to_string().contains("5 is beyond") && error.hint().is_some(), "{error}");
}
