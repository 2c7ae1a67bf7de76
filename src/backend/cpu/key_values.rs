//! The keys and values of one layer, in the layout that attention reads.
//!
//! Values are stored by rows, [positions, width]. Keys are stored in panels of 64 positions, each [width, 64]: a column
//! of a panel is four vectors, and the columns of a head follow each other. The data after the last position of the
//! last panel is undefined.

use rayon::prelude::*;

use super::simd::LANES;

/// Positions of a panel of keys.
pub(super) const PANEL: usize = 4 * LANES;

/// Elements below which dividing the work costs more than it saves.
const WORTH_SHARING: usize = 50_000;

/// Keys and values of one layer, for each slot.
#[derive(Debug)]
pub struct KeyValueCache {
    width: usize,
    slots: Vec<Slot>,
}

/// Keys and values of one sequence.
#[derive(Debug, Clone, Default)]
struct Slot {
    len: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The keys and values of a sequence that queries read.
#[derive(Debug, Clone, Copy)]
pub(super) struct SequenceView<'a> {
    /// Keys in panels.
    pub keys: &'a [f32],
    /// Values in rows.
    pub values: &'a [f32],
    /// Columns of keys and of values: those of all heads.
    pub width: usize,
    /// Positions.
    pub len: usize,
}

/// Returns the number of floats of the panels of `positions` positions.
pub(super) fn panels_len(positions: usize, width: usize) -> usize {
    positions.next_multiple_of(PANEL) * width
}

/// Writes rows of keys, [.., width], to the positions of panels from `from` on.
pub(super) fn pack_keys(rows: &[f32], width: usize, from: usize, panels: &mut [f32]) {
    if width == 0 {
        return;
    }
    let first = from / PANEL;
    let touched = &mut panels[first * PANEL * width..];
    let pack = |(index, panel): (usize, &mut [f32])| {
        let start = (first + index) * PANEL;
        let skipped = from.saturating_sub(start);
        let at = (start + skipped - from) * width;
        let rows = rows.get(at..).unwrap_or_default();
        // Processes as many keys as a cache line of a column holds.
        for (lane, rows) in (skipped..PANEL).step_by(LANES).zip(rows.chunks(LANES * width)) {
            let keys = (rows.len() / width).min(PANEL - lane);
            for (i, column) in panel.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
                for (j, key) in column[lane..lane + keys].iter_mut().enumerate() {
                    *key = rows[j * width + i];
                }
            }
        }
    };
    if rows.len() < WORTH_SHARING {
        touched.chunks_exact_mut(PANEL * width).enumerate().for_each(pack);
    } else {
        touched.par_chunks_exact_mut(PANEL * width).enumerate().for_each(pack);
    }
}

impl KeyValueCache {
    pub(super) fn new(width: usize, slots: usize) -> Self {
        KeyValueCache { width, slots: vec![Slot::default(); slots] }
    }

    /// Writes rows of keys and values to the positions from `past` on of a slot; later positions are dropped.
    ///
    /// # Panics
    /// If the slot holds fewer than `past` positions.
    pub(super) fn append(&mut self, slot: usize, past: usize, keys: &[f32], values: &[f32]) {
        let width = self.width;
        let slot = &mut self.slots[slot];
        assert!(past <= slot.len, "attention: {past} positions are past, the cache holds {}", slot.len);
        slot.len = past + values.len() / width.max(1);
        if slot.keys.len() < panels_len(slot.len, width) {
            slot.keys.resize(panels_len(slot.len, width), 0.0);
        }
        pack_keys(keys, width, past, &mut slot.keys[..panels_len(slot.len, width)]);
        slot.values.truncate(past * width);
        slot.values.extend_from_slice(values);
    }

    /// Returns the content of a slot.
    pub(super) fn sequence(&self, slot: usize) -> SequenceView<'_> {
        let Slot { len, keys, values } = &self.slots[slot];
        SequenceView { keys, values, width: self.width, len: *len }
    }

    /// Copies the first `len` positions of slot `from` to slot `to`.
    ///
    /// # Panics
    /// If `from` holds fewer.
    pub(super) fn copy(&mut self, from: usize, to: usize, len: usize) {
        assert!(len <= self.slots[from].len, "copy_slot: {len} positions of {}", self.slots[from].len);
        if from == to {
            self.slots[to].len = len;
            return;
        }
        let mut target = std::mem::take(&mut self.slots[to]);
        let source = &self.slots[from];
        target.len = len;
        target.keys.clear();
        target.keys.extend_from_slice(&source.keys[..panels_len(len, self.width)]);
        target.values.clear();
        target.values.extend_from_slice(&source.values[..len * self.width]);
        self.slots[to] = target;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the keys of a sequence by rows.
    fn unpacked(sequence: SequenceView) -> Vec<f32> {
        let SequenceView { keys, width, len, .. } = sequence;
        let at = |position: usize, column: usize| {
            keys[position / PANEL * PANEL * width + column * PANEL + position % PANEL]
        };
        (0..len).flat_map(|position| (0..width).map(move |column| at(position, column))).collect()
    }

    fn rows(from: usize, len: usize, width: usize) -> Vec<f32> {
        (from * width..(from + len) * width).map(|i| i as f32).collect()
    }

    #[test]
    fn positions_come_back_whatever_the_steps_in_which_they_came() {
        for width in [1, 3, 192] {
            for steps in [&[1, 1, 14, 1][..], &[16, 16], &[17, 300, 1], &[40, 0, 2]] {
                let mut cache = KeyValueCache::new(width, 2);
                let mut past = 0;
                for &len in steps {
                    let new = rows(past, len, width);
                    let negative: Vec<f32> = new.iter().map(|v| -v).collect();
                    cache.append(1, past, &new, &negative);
                    past += len;
                }
                let sequence = cache.sequence(1);
                assert_eq!(unpacked(sequence), rows(0, past, width), "{width} {steps:?}");
                assert!(sequence.values.iter().zip(rows(0, past, width)).all(|(a, b)| *a == -b));
                assert_eq!((sequence.len, cache.sequence(0).len), (past, 0));
            }
        }
    }

    #[test]
    fn a_slot_is_cut_back_and_copied() {
        let mut cache = KeyValueCache::new(3, 3);
        cache.append(0, 0, &rows(0, 40, 3), &rows(0, 40, 3));
        cache.append(0, 18, &rows(100, 2, 3), &rows(100, 2, 3));
        let expected = [rows(0, 18, 3), rows(100, 2, 3)].concat();
        assert_eq!(unpacked(cache.sequence(0)), expected);
        assert_eq!(cache.sequence(0).values, expected);
        cache.append(2, 0, &rows(7, 33, 3), &rows(7, 33, 3));
        cache.copy(0, 2, 19);
        assert_eq!(unpacked(cache.sequence(2)), expected[..57]);
        assert_eq!(cache.sequence(2).values, &expected[..57]);
        cache.copy(0, 0, 5);
        cache.append(0, 5, &rows(1, 1, 3), &rows(1, 1, 3));
        assert_eq!(cache.sequence(0).values, [rows(0, 5, 3), rows(1, 1, 3)].concat());
    }
}
