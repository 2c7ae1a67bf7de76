//! The loop of GPTQ: each step of a [`Sweep`] is rounded.

use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::factor::Factor;
use super::grid;
use super::parameters::{ActOrder, Gptq};
use super::sweep::{LANES, Sweep};
use crate::numerics::{Cells, Codes, Column, Context, Granularity, Grid, QTensor, ScalarCodes, Scheme};

/// Rounds a weight [rows, cols] with the factor of its inputs' Hessian. Where `mask` is true, the weight stays zero.
pub(crate) fn quantize(
    gptq: &Gptq,
    scheme: &Scheme,
    w: ArrayView2<f32>,
    mask: Option<&Array2<bool>>,
    context: &Context,
    factor: &Factor,
) -> QTensor {
    assert_eq!(w.ncols(), factor.order.len(), "the Hessian has as many columns as the weight");
    let plan = Plan::new(gptq, scheme, w, mask, context, factor);
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
    /// True where the weight stays zero, [rows, cols].
    mask: Option<&'a Array2<bool>>,
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
        mask: Option<&'a Array2<bool>>,
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
        let groups = w.ncols().div_ceil(width);
        Plan { gptq, scheme, factor, mask, context, importance, width, groups, fixed }
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
    sweep: Sweep<'a>,
    /// The first row.
    first: usize,
    rows: usize,
    codes: Vec<u8>,
    /// [group, lane].
    cells: Cells,
    /// The grid entries that were fitted in the loop, by group.
    fitted: Vec<Grid>,
}

impl<'a> Lanes<'a> {
    fn new(plan: &'a Plan<'a>, w: ArrayView2<f32>, first: usize) -> Lanes<'a> {
        let cells = Cells { scales: vec![1.0; plan.groups * LANES], zeros: vec![0.0; plan.groups * LANES] };
        let mut lanes = Lanes {
            plan,
            sweep: Sweep::new(plan.factor, w),
            first,
            rows: w.nrows(),
            codes: vec![0; plan.steps() * LANES],
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
            self.sweep.reach(panel.clone());
            panel.clone().for_each(|step| self.round(step));
            start = panel.end;
        }
        (self.row_major_codes(), self.row_major_grid())
    }

    /// Fits the grid of the group that begins at a step to what its weights have become.
    fn fit_group(&mut self, start: usize) {
        let plan = self.plan;
        let steps = start..plan.steps().min(start + plan.width);
        self.sweep.reach(steps.clone());
        let settled = self.sweep.settled(steps.clone());
        let settled = ArrayView2::from_shape((steps.len(), LANES), &settled).expect("whole steps");
        let w: Array2<f32> = settled.slice(s![.., ..self.rows]).t().as_standard_layout().into_owned();
        let importance = plan.importance.as_ref().map(|importance| &importance[steps]);
        let context = Context { importance, ..plan.context };
        let grid = grid::fit_rows(plan.scheme, w.view(), &context, plan.gptq.clip);
        self.take_cells(plan.group(start), &plan.scheme.cells(&grid), |lane| lane);
        self.fitted.push(grid);
    }

    /// Rounds a step that is reached.
    fn round(&mut self, step: usize) {
        let mut targets: [f32; LANES] =
            self.sweep.target(step).try_into().expect("a step has a value a lane");
        self.mask(step, &mut targets);
        let cells = self.plan.group(step) * LANES..(self.plan.group(step) + 1) * LANES;
        let mut rounded = [0.0; LANES];
        self.plan.scheme.round_column(Column {
            values: &targets,
            scales: &self.cells.scales[cells.clone()],
            zeros: &self.cells.zeros[cells],
            codes: &mut self.codes[step * LANES..(step + 1) * LANES],
            rounded: &mut rounded,
        });
        self.sweep.finish(step, &rounded);
    }

    /// Makes the targets of weights that stay zero 0, which every scheme with a code for it rounds to 0.
    fn mask(&self, step: usize, targets: &mut [f32; LANES]) {
        let Some(mask) = self.plan.mask else { return };
        let column = mask.slice(s![self.first..self.first + self.rows, self.plan.factor.order[step]]);
        targets.iter_mut().zip(column).for_each(|(target, zero)| *target = if *zero { 0.0 } else { *target });
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
