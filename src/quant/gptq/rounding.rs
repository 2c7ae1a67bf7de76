//! The loop: rows side by side, columns one after the other.
//!
//! Step j rounds w[j] + Σ (i < j) (w[i] − q[i])·T[i, j] to q[j]. That is GPTQ without an inverse: the Cholesky factor U of
//! H⁻¹ = UᵀU is R⁻¹, so that spreading (w'[j] − q[j])/U[j, j]·U[j, ·] over the weights behind, as GPTQ does, leaves there
//! what the sum over T gives (QuIP's LDLQ; Chee et al. 2023, theorem 6).

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::factor::Factor;
use super::grid;
use super::parameters::{ActOrder, Gptq};
use crate::numerics::simd::{self, Kernel};
use crate::numerics::{
    Cells, Codes, Column, Context, Granularity, Grid, QTensor, ScalarCodes, Scheme, linalg,
};

/// Rows that one task rounds side by side; fewer are padded, so that the order of sums, and with it the bytes, depends on
/// neither the number of threads nor the range of rows.
const LANES: usize = 64;

/// Rounds a weight [rows, cols] with the factor of its inputs' Hessian.
pub(crate) fn quantize(
    gptq: &Gptq,
    scheme: &Scheme,
    w: ArrayView2<f32>,
    context: &Context,
    factor: &Factor,
) -> QTensor {
    assert_eq!(w.ncols(), factor.order.len(), "the Hessian has as many columns as the weight");
    let plan = Plan::new(gptq, scheme, w, context, factor);
    let rows: Vec<_> = w.axis_chunks_iter(Axis(0), LANES).collect();
    let parts: Vec<(Vec<u8>, Grid)> = rows
        .into_par_iter()
        .enumerate()
        .map(|(index, rows)| Lanes::new(&plan, rows, index * LANES).run())
        .collect();
    let (codes, grids): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let (rows, cols) = w.dim();
    let g_idx = plan.g_idx();
    let grid = plan.fixed.map_or_else(|| grid::concatenate(grids), |(grid, _)| grid);
    let codes = ScalarCodes { scheme: *scheme, codes: codes.concat(), grid, g_idx };
    QTensor { rows, cols, codes: Codes::Scalar(codes) }
}

/// The state that all rows of a weight share.
struct Plan<'a> {
    gptq: &'a Gptq,
    scheme: &'a Scheme,
    factor: &'a Factor,
    context: Context<'a>,
    /// The Hessian's diagonal in the order of the steps, where it weighs the search for grids.
    importance: Option<Vec<f32>>,
    /// Columns of a group.
    width: usize,
    /// Groups of a row.
    groups: usize,
    /// Grids fitted before the loop; `None` where it fits each group as it reaches it.
    fixed: Option<(Grid, Cells)>,
}

impl<'a> Plan<'a> {
    fn new(
        gptq: &'a Gptq,
        scheme: &'a Scheme,
        w: ArrayView2<f32>,
        context: &Context<'a>,
        factor: &'a Factor,
    ) -> Plan<'a> {
        let known = gptq.clip && factor.diagonal.iter().any(|&value| value > 0.0);
        let importance = known.then_some(factor.diagonal.as_slice());
        let context = Context { importance, ..*context };
        let as_reached =
            matches!(scheme.granularity, Granularity::Group(_)) && gptq.act_order != ActOrder::Static;
        let fixed = (!as_reached).then(|| {
            let grid = grid::fit(scheme, w, &context, gptq.clip);
            let cells = scheme.cells(&grid);
            (grid, cells)
        });
        let importance =
            importance.map(|diagonal| factor.order.iter().map(|&column| diagonal[column]).collect());
        let width = scheme.width(w.ncols());
        Plan { gptq, scheme, factor, context, importance, width, groups: w.ncols().div_ceil(width), fixed }
    }

    fn steps(&self) -> usize {
        self.factor.order.len()
    }

    /// The group of the column that a step rounds.
    fn group(&self, step: usize) -> usize {
        if self.fixed.is_some() { self.factor.order[step] / self.width } else { step / self.width }
    }

    /// The end of the panel that begins at a step: after a block, or before the next group that must be fitted.
    fn panel_end(&self, start: usize) -> usize {
        let block = start + self.gptq.block_size;
        let group = if self.fixed.is_some() { block } else { (start / self.width + 1) * self.width };
        block.min(group).min(self.steps())
    }

    /// The group of each column, where they are not in order.
    fn g_idx(&self) -> Option<Vec<u32>> {
        if self.fixed.is_some() || self.gptq.act_order != ActOrder::Dynamic {
            return None;
        }
        let mut g_idx = vec![0; self.steps()];
        self.factor
            .order
            .iter()
            .enumerate()
            .for_each(|(step, &column)| g_idx[column] = self.group(step) as u32);
        Some(g_idx)
    }
}

/// Up to [`LANES`] rows on their way through the loop. Buffers are step-major: [step, lane].
struct Lanes<'a> {
    plan: &'a Plan<'a>,
    rows: usize,
    /// Weights; of the steps that are done, what rounding took from them: w − q.
    errors: Vec<f32>,
    codes: Vec<u8>,
    /// The targets of the steps `reached`: the weights, corrected for the earlier errors.
    targets: Vec<f32>,
    reached: Range<usize>,
    /// [group, lane].
    cells: Cells,
    /// The grid entries that were fitted in the loop, by group.
    fitted: Vec<Grid>,
}

impl<'a> Lanes<'a> {
    fn new(plan: &'a Plan<'a>, w: ArrayView2<f32>, first: usize) -> Lanes<'a> {
        let mut errors = vec![0.0; plan.steps() * LANES];
        for (lanes, &column) in errors.chunks_exact_mut(LANES).zip(&plan.factor.order) {
            lanes.iter_mut().zip(w.column(column)).for_each(|(lane, &value)| *lane = value);
        }
        let cells = Cells { scales: vec![1.0; plan.groups * LANES], zeros: vec![0.0; plan.groups * LANES] };
        let mut lanes = Lanes {
            plan,
            rows: w.nrows(),
            codes: vec![0; errors.len()],
            errors,
            targets: Vec::new(),
            reached: 0..0,
            cells,
            fitted: Vec::new(),
        };
        if let Some((_, cells)) = &plan.fixed {
            let entry = |lane, group| plan.scheme.grid_index(first + lane, group * plan.width, plan.steps());
            (0..plan.groups).for_each(|group| lanes.take_cells(group, cells, |lane| entry(lane, group)));
        }
        lanes
    }

    /// Puts the grid entries of a group beside each other.
    fn take_cells(&mut self, group: usize, cells: &Cells, entry: impl Fn(usize) -> usize) {
        for lane in 0..self.rows {
            self.cells.scales[group * LANES + lane] = cells.scales[entry(lane)];
            self.cells.zeros[group * LANES + lane] = cells.zeros[entry(lane)];
        }
    }

    /// Codes, row-major, and the grid where it was fitted here.
    fn run(mut self) -> (Vec<u8>, Grid) {
        let mut start = 0;
        while start < self.plan.steps() {
            if self.plan.fixed.is_none() && start % self.plan.width == 0 {
                self.fit_group(start);
            }
            let panel = start..self.plan.panel_end(start);
            self.reach(panel.clone());
            panel.clone().for_each(|step| self.round(step));
            start = panel.end;
        }
        (self.row_major_codes(), self.row_major_grid())
    }

    /// Computes the targets of some steps, all before them being done.
    fn reach(&mut self, steps: Range<usize>) {
        if self.reached == steps {
            return;
        }
        self.targets.clear();
        self.targets.extend_from_slice(&self.errors[steps.start * LANES..steps.end * LANES]);
        let done = &self.errors[..steps.start * LANES];
        let feedback = &self.plan.factor.feedback;
        linalg::add_transposed_product(&mut self.targets, feedback, 0..steps.start, steps.clone(), done);
        self.reached = steps;
    }

    /// Fits the grid of the group that begins at a step to what its weights have become.
    fn fit_group(&mut self, start: usize) {
        let plan = self.plan;
        let steps = start..plan.steps().min(start + plan.width);
        self.reach(steps.clone());
        let unsettled = self.targets.clone();
        steps.clone().for_each(|step| self.settle(step));
        let targets = ArrayView2::from_shape((steps.len(), LANES), &self.targets).expect("whole steps");
        let w: Array2<f32> = targets.slice(s![.., ..self.rows]).t().as_standard_layout().into_owned();
        let importance = plan.importance.as_ref().map(|importance| &importance[steps]);
        let context = Context { importance, ..plan.context };
        let grid = grid::fit_rows(plan.scheme, w.view(), &context, plan.gptq.clip);
        self.take_cells(plan.group(start), &plan.scheme.cells(&grid), |lane| lane);
        self.fitted.push(grid);
        self.targets = unsettled;
    }

    /// Spreads what a step's weight has moved by, as if it were to stay there: after that, the targets behind are what the
    /// weights become before any more are rounded.
    fn settle(&mut self, step: usize) {
        let (target, behind) = self.targets[(step - self.reached.start) * LANES..].split_at_mut(LANES);
        let weights = &self.errors[step * LANES..(step + 1) * LANES];
        let moved: [f32; LANES] = std::array::from_fn(|lane| weights[lane] - target[lane]);
        let feedback = self.plan.factor.feedback(step, self.reached.end);
        simd::dispatch(Spread { errors: &moved, feedback, targets: behind });
    }

    /// Rounds a step that is reached, and spreads its error over those reached with it.
    fn round(&mut self, step: usize) {
        let at = (step - self.reached.start) * LANES;
        let (targets, behind) = self.targets[at..].split_at_mut(LANES);
        let cells = self.plan.group(step) * LANES..(self.plan.group(step) + 1) * LANES;
        let lanes = step * LANES..(step + 1) * LANES;
        let mut rounded = [0.0; LANES];
        self.plan.scheme.round_column(Column {
            values: targets,
            scales: &self.cells.scales[cells.clone()],
            zeros: &self.cells.zeros[cells],
            codes: &mut self.codes[lanes.clone()],
            rounded: &mut rounded,
        });
        let errors = &mut self.errors[lanes];
        errors.iter_mut().zip(rounded).for_each(|(error, rounded)| *error -= rounded);
        let feedback = self.plan.factor.feedback(step, self.reached.end);
        simd::dispatch(Spread { errors, feedback, targets: behind });
    }

    fn row_major_codes(&self) -> Vec<u8> {
        let steps = self.plan.steps();
        let mut codes = vec![0; self.rows * steps];
        for (lanes, &column) in self.codes.chunks_exact(LANES).zip(&self.plan.factor.order) {
            lanes[..self.rows].iter().enumerate().for_each(|(row, &code)| codes[row * steps + column] = code);
        }
        codes
    }

    fn row_major_grid(&self) -> Grid {
        let mut grid = Grid::default();
        for row in 0..self.rows {
            grid.scales.extend(self.fitted.iter().map(|group| group.scales[row]));
            grid.zero_points.extend(self.fitted.iter().filter_map(|group| group.zero_points.get(row)));
        }
        grid.global_scale = self.fitted.first().and_then(|group| group.global_scale);
        grid
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
