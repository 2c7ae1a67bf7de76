//! Backends around another backend. A [`Wrapper`] overrides the operations that it changes; the others are forwarded here,
//! and nowhere else.

use std::sync::Arc;

use super::{Activation, Attention, Backend, Matrix, NormWeights, Rotations, Route, Routing, Span};
use crate::error::Result;

/// The activations of a wrapper: those of the backend inside.
type TensorOf<W> = <<W as Wrapper>::Inner as Backend>::Tensor;

/// The tables of a wrapper: those of the backend inside.
type TableOf<W> = <<W as Wrapper>::Inner as Backend>::Table;

/// A backend that computes as the one inside, except for its linears and whatever else it overrides. An operation that a new
/// wrapper must change moves from the implementation of [`Backend`] below to a provided method here.
pub trait Wrapper: Send + Sync {
    /// The backend inside.
    type Inner: Backend;
    /// A linear layer of the wrapper.
    type Linear: Send + Sync;

    /// The backend inside.
    fn inner(&self) -> &Self::Inner;

    /// See [`Backend::load_linear`].
    fn load_linear(&self, parts: &[Arc<dyn Matrix>], bias: Option<Vec<f32>>) -> Result<Self::Linear>;

    /// See [`Backend::tied_head`].
    fn tied_head(&self, table: &TableOf<Self>) -> Result<Self::Linear>;

    /// See [`Backend::linear`].
    fn linear(&self, x: &TensorOf<Self>, linear: &Self::Linear) -> Result<TensorOf<Self>>;

    /// See [`Backend::attention`].
    fn attention(
        &self,
        q: &TensorOf<Self>,
        k: &TensorOf<Self>,
        v: &TensorOf<Self>,
        spec: &Attention,
        spans: &[Span],
        cache: Option<&mut <Self::Inner as Backend>::KeyValues>,
    ) -> Result<TensorOf<Self>> {
        self.inner().attention(q, k, v, spec, spans, cache)
    }

    /// See [`Backend::scatter_add`].
    fn scatter_add(
        &self,
        x: TensorOf<Self>,
        rows: &[u32],
        y: &TensorOf<Self>,
        weights: &TensorOf<Self>,
    ) -> Result<TensorOf<Self>> {
        self.inner().scatter_add(x, rows, y, weights)
    }

    /// See [`Backend::route`].
    fn route(&self, logits: &TensorOf<Self>, routing: Routing) -> Result<Vec<Route<TensorOf<Self>>>> {
        self.inner().route(logits, routing)
    }
}

impl<W: Wrapper> Backend for W {
    type Tensor = TensorOf<W>;
    type Linear = W::Linear;
    type Table = TableOf<W>;
    type Norm = <W::Inner as Backend>::Norm;
    type KeyValues = <W::Inner as Backend>::KeyValues;

    fn load_linear(&self, parts: &[Arc<dyn Matrix>], bias: Option<Vec<f32>>) -> Result<Self::Linear> {
        Wrapper::load_linear(self, parts, bias)
    }

    fn load_table(&self, rows: Arc<dyn Matrix>) -> Result<Self::Table> {
        self.inner().load_table(rows)
    }

    fn tied_head(&self, table: &Self::Table) -> Result<Self::Linear> {
        Wrapper::tied_head(self, table)
    }

    fn load_norm(&self, norm: NormWeights) -> Result<Self::Norm> {
        self.inner().load_norm(norm)
    }

    fn key_values(&self, width: usize, slots: usize) -> Result<Self::KeyValues> {
        self.inner().key_values(width, slots)
    }

    fn copy_slot(&self, cache: &mut Self::KeyValues, from: usize, to: usize, len: usize) -> Result<()> {
        self.inner().copy_slot(cache, from, to, len)
    }

    fn rows(&self, x: &Self::Tensor) -> usize {
        self.inner().rows(x)
    }

    fn embed(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor> {
        self.inner().embed(table, ids)
    }

    fn linear(&self, x: &Self::Tensor, linear: &Self::Linear) -> Result<Self::Tensor> {
        Wrapper::linear(self, x, linear)
    }

    fn norm(&self, x: &Self::Tensor, norm: &Self::Norm) -> Result<Self::Tensor> {
        self.inner().norm(x, norm)
    }

    fn split<const N: usize>(&self, x: &Self::Tensor, widths: [usize; N]) -> Result<[Self::Tensor; N]> {
        self.inner().split(x, widths)
    }

    fn rope(&self, x: Self::Tensor, rotations: &Rotations) -> Result<Self::Tensor> {
        self.inner().rope(x, rotations)
    }

    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        spec: &Attention,
        spans: &[Span],
        cache: Option<&mut Self::KeyValues>,
    ) -> Result<Self::Tensor> {
        Wrapper::attention(self, q, k, v, spec, spans, cache)
    }

    fn activate(&self, x: Self::Tensor, activation: Activation) -> Result<Self::Tensor> {
        self.inner().activate(x, activation)
    }

    fn gate(&self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor> {
        self.inner().gate(x, activation)
    }

    fn add(&self, x: Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor> {
        self.inner().add(x, y)
    }

    fn scale(&self, x: Self::Tensor, factor: f32) -> Result<Self::Tensor> {
        self.inner().scale(x, factor)
    }

    fn soft_cap(&self, x: Self::Tensor, cap: f32) -> Result<Self::Tensor> {
        self.inner().soft_cap(x, cap)
    }

    fn gather(&self, x: &Self::Tensor, rows: &[u32]) -> Result<Self::Tensor> {
        self.inner().gather(x, rows)
    }

    fn scatter_add(
        &self,
        x: Self::Tensor,
        rows: &[u32],
        y: &Self::Tensor,
        weights: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        Wrapper::scatter_add(self, x, rows, y, weights)
    }

    fn route(&self, logits: &Self::Tensor, routing: Routing) -> Result<Vec<Route<Self::Tensor>>> {
        Wrapper::route(self, logits, routing)
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Self::Tensor> {
        self.inner().zeros(rows, cols)
    }

    fn tensor(&self, rows: usize, cols: usize, values: &[f32]) -> Result<Self::Tensor> {
        self.inner().tensor(rows, cols, values)
    }

    fn read<R>(&self, x: &Self::Tensor, look: impl FnOnce(&[f32]) -> R) -> Result<R> {
        self.inner().read(x, look)
    }
}
