//! The grids that the loop rounds with: fitted before it, or group by group as it reaches them.

use ndarray::{ArrayView2, Axis};
use rayon::prelude::*;

use crate::numerics::{Context, Granularity, Grid, Scheme};
use crate::quant::mse;

/// Rows that one task fits.
const ROWS: usize = 64;

/// The grid of a whole weight: min-max, or the clip search's where the scheme has one.
pub(crate) fn fit(scheme: &Scheme, w: ArrayView2<f32>, context: &Context, clip: bool) -> Grid {
    if scheme.granularity == Granularity::Tensor {
        return scheme.fit(w, context);
    }
    let rows = ROWS.next_multiple_of(scheme.row_multiple());
    let rows: Vec<_> = w.axis_chunks_iter(Axis(0), rows).collect();
    concatenate(rows.into_par_iter().map(|w| fit_rows(scheme, w, context, clip)).collect::<Vec<_>>())
}

/// The grid of a range of rows, or of one group of them.
pub(crate) fn fit_rows(scheme: &Scheme, w: ArrayView2<f32>, context: &Context, clip: bool) -> Grid {
    if clip { mse::search(scheme, w, context) } else { scheme.fit(w, context) }
}

/// Grids of consecutive rows as one.
pub(crate) fn concatenate(parts: impl IntoIterator<Item = Grid>) -> Grid {
    let mut whole = Grid::default();
    for part in parts {
        whole.scales.extend(part.scales);
        whole.zero_points.extend(part.zero_points);
        whole.global_scale = part.global_scale;
    }
    whole
}
