//! The keys and values of a layer. Each slot owns buffers that double when they are full and are written in place, so that
//! a generated token costs its own row and not a copy of all before it.

use candle_core::{Result, Tensor};

use crate::backend::Span;

/// Positions that a slot has room for at first.
const FIRST: usize = 64;

/// Keys and values of one layer, for every slot: values only, without the operations that made them.
#[derive(Debug)]
pub struct KeyValues {
    width: usize,
    slots: Vec<Option<Slot>>,
}

/// Keys and values of one sequence, [capacity, width] each; rows beyond what was written are zero.
#[derive(Debug)]
struct Slot {
    held: [Tensor; 2],
}

impl KeyValues {
    pub(super) fn new(width: usize, slots: usize) -> Self {
        KeyValues { width, slots: (0..slots).map(|_| None).collect() }
    }

    /// Writes the keys and values of a span at its position, and returns all that its slot then holds.
    pub(super) fn append(&mut self, span: &Span, new: [&Tensor; 2]) -> Result<[Tensor; 2]> {
        let end = span.past + span.len;
        let slot = self.reserve(span.slot, span.past, end, new[0])?;
        for (held, new) in slot.held.iter().zip(new) {
            held.slice_set(&new.detach().contiguous()?, 0, span.past)?;
        }
        slot.first(end)
    }

    /// A slot with room for `end` positions, that still holds the first `past`.
    fn reserve(&mut self, number: usize, past: usize, end: usize, like: &Tensor) -> Result<&Slot> {
        let slot = &mut self.slots[number];
        let capacity = slot.as_ref().map_or(0, Slot::capacity);
        assert!(past <= capacity, "slot {number} holds no {past} positions");
        if end > capacity || slot.is_none() {
            let shape = (end.max(2 * capacity).max(FIRST), self.width);
            let empty = || Tensor::zeros(shape, like.dtype(), like.device());
            let grown = Slot { held: [empty()?, empty()?] };
            if let Some(old) = slot.take() {
                grown.write(&old.first(past)?)?;
            }
            *slot = Some(grown);
        }
        Ok(slot.as_ref().expect("it was just made"))
    }

    /// See [`Backend::copy_slot`](crate::backend::Backend::copy_slot).
    pub(super) fn copy_slot(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        if from == to {
            return Ok(());
        }
        self.slots[to] = match &self.slots[from] {
            Some(slot) if len > 0 => {
                let [keys, values] = slot.first(len)?;
                Some(Slot { held: [keys.copy()?, values.copy()?] })
            }
            _ => None,
        };
        Ok(())
    }
}

impl Slot {
    fn capacity(&self) -> usize {
        self.held[0].dims()[0]
    }

    /// The first `len` positions.
    fn first(&self, len: usize) -> Result<[Tensor; 2]> {
        let [keys, values] = &self.held;
        Ok([keys.narrow(0, 0, len)?, values.narrow(0, 0, len)?])
    }

    fn write(&self, rows: &[Tensor; 2]) -> Result<()> {
        for (held, rows) in self.held.iter().zip(rows) {
            held.slice_set(rows, 0, 0)?;
        }
        Ok(())
    }
}
