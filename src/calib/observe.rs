//! A backend that computes as another does, and looks at what linears read on the way: the forward pass is not written
//! twice for calibration.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ndarray::ArrayView2;

use crate::backend::{Attention, Backend, Matrix, Route, Routing, Span, Wrapper};
use crate::error::{Error, Result};
use crate::model::BlockLayout;
use crate::statistics::{Needs, Statistics, largest};

/// The observations that one pass over a block makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Watch {
    /// Statistics to gather.
    pub needs: Needs,
    /// The depth of the forward pass whose inputs are looked at; `None` looks at all.
    pub depth: Option<usize>,
    /// Experts that every token is shown to, whatever the router says of it; their outputs count as little as before. Where
    /// there are any, the inputs of their linears alone are looked at.
    pub shown_all: BTreeSet<usize>,
    /// True if the largest keys and values are looked for.
    pub key_values: bool,
    /// True if nobody reads the block's outputs: the linears of the last depth that is looked at need not be computed.
    pub inputs_only: bool,
}

/// The result of a pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct InputStatistics {
    /// By [`crate::model::LinearPlace::input`]; of inputs that were not looked at, or saw no token: `None`.
    pub inputs: Vec<Option<Statistics>>,
    /// max |k| as it is cached (rotated), and max |v|.
    pub key_values: [f32; 2],
}

/// The wrapper. Linears that the layout names are watched while a [`Watch`] is set.
pub(crate) struct Observing<B> {
    inner: B,
    places: HashMap<String, Place>,
    /// The last depth of the block.
    last: usize,
    inputs: usize,
    /// Input and depth of what was loaded so far.
    loaded: Mutex<Vec<[usize; 2]>>,
    state: Mutex<State>,
}

/// The place of a linear in the layout.
#[derive(Debug, Clone, Copy)]
struct Place {
    depth: usize,
    input: usize,
    expert: Option<usize>,
    /// True if no linear loaded before it reads the same input; and none of the same depth.
    first: bool,
    first_of_depth: bool,
}

#[derive(Default)]
struct State {
    watch: Option<Watch>,
    seen: InputStatistics,
}

/// A linear layer, and which one it is.
pub(crate) struct ObservedLinear<L> {
    inner: L,
    place: Option<Place>,
    rows: usize,
}

/// The values of an input as a matrix of so many rows.
pub(crate) fn rows_of(values: &[f32], rows: usize) -> Result<ArrayView2<'_, f32>> {
    let cols = values.len() / rows.max(1);
    ArrayView2::from_shape((rows, cols), values).map_err(|_| misshapen(values.len(), rows))
}

/// The error for an input that does not have the shape of those before: the backend is wrong, not the user.
fn misshapen(values: usize, rows: usize) -> Error {
    Error::unsupported(
        format!("calibration: the input of a linear has {values} values in {rows} rows, which does not fit"),
        "this is a defect of llmc: please report it, with the model's config.json",
    )
}

impl<B: Backend> Observing<B> {
    /// Wraps a backend for one block.
    pub(crate) fn new(inner: B, layout: &BlockLayout) -> Self {
        let place = |linear: &crate::model::LinearPlace| {
            let place = Place {
                depth: linear.depth,
                input: linear.input,
                expert: linear.expert,
                first: true,
                first_of_depth: true,
            };
            (linear.name.clone(), place)
        };
        let inputs = layout.linears.iter().map(|linear| linear.input + 1).max().unwrap_or(0);
        let last = layout.linears.iter().map(|linear| linear.depth).max().unwrap_or(0);
        let places = layout.linears.iter().map(place).collect();
        Observing { inner, places, last, inputs, loaded: Mutex::default(), state: Mutex::default() }
    }

    /// Begins to watch.
    pub(crate) fn watch(&self, watch: Watch) {
        let seen = InputStatistics { inputs: vec![None; self.inputs], ..InputStatistics::default() };
        *self.state() = State { watch: Some(watch), seen };
    }

    /// Ends it, and tells what was seen.
    pub(crate) fn seen(&self) -> InputStatistics {
        std::mem::take(&mut *self.state()).seen
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at an input; tells whether the pass ends with it, and its linears need not be computed.
    fn look(&self, x: &B::Tensor, place: Place) -> Result<bool> {
        let state = &mut *self.state();
        let Some(watch) = &state.watch else { return Ok(false) };
        let looks = watch.depth.map_or(place.first, |depth| depth == place.depth && place.first_of_depth)
            && (watch.shown_all.is_empty()
                || place.expert.is_some_and(|expert| watch.shown_all.contains(&expert)));
        if looks {
            let rows = self.inner.rows(x);
            let needs = watch.needs;
            let slot = &mut state.seen.inputs[place.input];
            self.inner.read(x, |values| {
                let x = rows_of(values, rows)?;
                let statistics = slot.get_or_insert_with(|| Statistics::new(x.ncols(), needs));
                if statistics.columns().is_some_and(|columns| columns != x.ncols()) {
                    return Err(misshapen(values.len(), rows));
                }
                statistics.observe(x);
                Ok(())
            })??;
        }
        Ok(watch.inputs_only && place.depth >= watch.depth.unwrap_or(self.last))
    }

    /// Tells whether a linear is the first to read its input.
    fn claim(&self, place: Place) -> Place {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let first = loaded.iter().all(|[input, _]| *input != place.input);
        let first_of_depth = !loaded.contains(&[place.input, place.depth]);
        loaded.push([place.input, place.depth]);
        Place { first, first_of_depth, ..place }
    }

    /// Adds all tokens that the router has not sent there to the experts that are to see all: with a weight of zero.
    fn show_all(
        &self,
        logits: &B::Tensor,
        experts: &BTreeSet<usize>,
        routes: &mut Vec<Route<B::Tensor>>,
    ) -> Result<()> {
        let tokens = self.inner.rows(logits);
        for &expert in experts {
            let sent: BTreeSet<u32> = routes
                .iter()
                .filter(|route| route.expert == expert)
                .flat_map(|route| route.rows.clone())
                .collect();
            let rows: Vec<u32> = (0..tokens as u32).filter(|row| !sent.contains(row)).collect();
            let weights = self.inner.zeros(rows.len(), 1)?;
            routes.push(Route { expert, rows, weights });
        }
        Ok(())
    }
}

impl<B: Backend> Wrapper for Observing<B> {
    type Inner = B;
    type Linear = ObservedLinear<B::Linear>;

    fn inner(&self) -> &B {
        &self.inner
    }

    fn load_linear(&self, parts: &[Arc<dyn Matrix>], bias: Option<Vec<f32>>) -> Result<Self::Linear> {
        let place =
            parts.first().and_then(|part| self.places.get(part.name())).map(|place| self.claim(*place));
        let rows = parts.iter().map(|part| part.shape()[0]).sum();
        Ok(ObservedLinear { inner: self.inner.load_linear(parts, bias)?, place, rows })
    }

    fn tied_head(&self, table: &B::Table) -> Result<Self::Linear> {
        Ok(ObservedLinear { inner: self.inner.tied_head(table)?, place: None, rows: 0 })
    }

    fn linear(&self, x: &B::Tensor, linear: &Self::Linear) -> Result<B::Tensor> {
        match linear.place {
            Some(place) if self.look(x, place)? => self.inner.zeros(self.inner.rows(x), linear.rows),
            _ => self.inner.linear(x, &linear.inner),
        }
    }

    fn attention(
        &self,
        q: &B::Tensor,
        k: &B::Tensor,
        v: &B::Tensor,
        spec: &Attention,
        spans: &[Span],
        cache: Option<&mut B::KeyValues>,
    ) -> Result<B::Tensor> {
        let state = &mut *self.state();
        if state.watch.as_ref().is_some_and(|watch| watch.key_values) {
            for (max, x) in state.seen.key_values.iter_mut().zip([k, v]) {
                let absmax = |values: &[f32]| values.iter().fold(*max, |max, x| largest(max, *x));
                *max = self.inner.read(x, absmax)?;
            }
        }
        self.inner.attention(q, k, v, spec, spans, cache)
    }

    fn route(&self, logits: &B::Tensor, routing: Routing) -> Result<Vec<Route<B::Tensor>>> {
        let mut routes = self.inner.route(logits, routing)?;
        let shown_all = self.state().watch.as_ref().map(|watch| watch.shown_all.clone()).unwrap_or_default();
        self.show_all(logits, &shown_all, &mut routes)?;
        Ok(routes)
    }
}
