//! Columns one after the other, rows side by side: what an early column loses, later ones make up for.
//!
//! Step j changes w[j] + Σ (i < j) (w[i] − q[i])·T[i, j] to q[j]. That is GPTQ without an inverse: the Cholesky factor U of
//! H⁻¹ = UᵀU is R⁻¹, so that spreading (w'[j] − q[j])/U[j, j]·U[j, ·] over the weights behind, as GPTQ does, leaves there
//! what the sum over T gives (QuIP's LDLQ; Chee et al. 2023, theorem 6).

use std::ops::Range;

use ndarray::ArrayView2;

use super::factor::Factor;
use crate::numerics::linalg;
use crate::numerics::simd::{self, Kernel};

/// Rows that one task changes side by side; fewer are padded, so that the order of sums, and with it the bytes, depends on
/// neither the number of threads nor the range of rows.
pub(crate) const LANES: usize = 64;

/// Up to [`LANES`] rows on their way. Buffers are step-major: [step, lane].
pub(crate) struct Sweep<'a> {
    factor: &'a Factor,
    /// Weights; of the steps that are done, what they have lost: w − q.
    errors: Vec<f32>,
    /// The targets of the steps `reached`: the weights, corrected for the earlier errors.
    targets: Vec<f32>,
    reached: Range<usize>,
}

impl<'a> Sweep<'a> {
    /// Begins with some rows of a weight, [rows, cols].
    pub(crate) fn new(factor: &'a Factor, w: ArrayView2<f32>) -> Sweep<'a> {
        let mut errors = vec![0.0; factor.order.len() * LANES];
        for (lanes, &column) in errors.chunks_exact_mut(LANES).zip(&factor.order) {
            lanes.iter_mut().zip(w.column(column)).for_each(|(lane, &value)| *lane = value);
        }
        Sweep { factor, errors, targets: Vec::new(), reached: 0..0 }
    }

    /// The factor of the inputs' Hessian.
    pub(crate) fn factor(&self) -> &'a Factor {
        self.factor
    }

    /// Computes the targets of some steps, all before them being done.
    pub(crate) fn reach(&mut self, steps: Range<usize>) {
        if self.reached == steps {
            return;
        }
        self.targets.clear();
        self.targets.extend_from_slice(&self.errors[steps.start * LANES..steps.end * LANES]);
        let done = &self.errors[..steps.start * LANES];
        let feedback = &self.factor.feedback;
        linalg::add_transposed_product(&mut self.targets, feedback, 0..steps.start, steps.clone(), done);
        self.reached = steps;
    }

    /// The targets of a step that is reached.
    pub(crate) fn target(&self, step: usize) -> &[f32] {
        &self.targets[(step - self.reached.start) * LANES..][..LANES]
    }

    /// The values that the weights of some reached steps take, [step, lane], if none of them loses anything more.
    pub(crate) fn settled(&self, steps: Range<usize>) -> Vec<f32> {
        let [start, end] = [steps.start, steps.end].map(|step| (step - self.reached.start) * LANES);
        let mut settled = self.targets[start..end].to_vec();
        for step in steps.clone() {
            let (target, behind) = settled[(step - steps.start) * LANES..].split_at_mut(LANES);
            let weights = &self.errors[step * LANES..(step + 1) * LANES];
            let moved: [f32; LANES] = std::array::from_fn(|lane| weights[lane] - target[lane]);
            let feedback = self.factor.feedback(step, steps.end);
            simd::dispatch(Spread { errors: &moved, feedback, targets: behind });
        }
        settled
    }

    /// Gives a reached step its values, and spreads what they lose over those reached with it.
    pub(crate) fn finish(&mut self, step: usize, values: &[f32; LANES]) {
        let errors = &mut self.errors[step * LANES..(step + 1) * LANES];
        errors.iter_mut().zip(values).for_each(|(error, value)| *error -= value);
        let behind = &mut self.targets[(step + 1 - self.reached.start) * LANES..];
        let feedback = self.factor.feedback(step, self.reached.end);
        simd::dispatch(Spread { errors, feedback, targets: behind });
    }
}

/// targets\[k\] += feedback\[k\]·errors, lane by lane.
struct Spread<'a> {
    errors: &'a [f32],
    feedback: &'a [f32],
    targets: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (&factor, targets) in self.feedback.iter().zip(self.targets.chunks_exact_mut(LANES)) {
            for (target, &error) in targets.iter_mut().zip(self.errors) {
                *target += factor * error;
            }
        }
    }
}
