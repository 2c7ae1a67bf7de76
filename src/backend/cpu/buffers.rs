//! Buffers of activations that return to a pool when they are dropped. A forward pass with the same shapes as the last
//! one allocates nothing.
//!
//! A new buffer holds the data of its last use; the new owner must overwrite all of it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Number of buffers kept for reuse; a pass of a decoder uses about twenty at once. If there are more, the one unused
/// for longest is freed.
const KEPT: usize = 64;

/// Free buffers; the one returned last is at the end. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    free: Arc<Mutex<Vec<Vec<f32>>>>,
}

impl Pool {
    pub(super) fn new() -> Self {
        Pool { free: Arc::new(Mutex::new(Vec::with_capacity(KEPT))) }
    }

    /// Returns a buffer of `len` floats with undefined values: the smallest free one that fits, unless it is more than
    /// twice as large as needed.
    pub(super) fn take(&self, len: usize) -> Buffer {
        let storage = self.reuse(len).unwrap_or_else(|| vec![0.0; len]);
        Buffer { storage, len, pool: self.clone() }
    }

    fn reuse(&self, len: usize) -> Option<Vec<f32>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let candidates =
            free.iter().enumerate().filter(|(_, storage)| storage.len() >= len && storage.len() / 2 <= len);
        let (index, _) = candidates.min_by_key(|(_, storage)| storage.len())?;
        Some(free.remove(index))
    }

    fn give_back(&self, storage: Vec<f32>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() == KEPT {
            free.remove(0);
        }
        free.push(storage);
    }
}

/// A buffer of `len` floats that returns to its pool when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    storage: Vec<f32>,
    len: usize,
    pool: Pool,
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.storage[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.storage[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.storage));
    }
}

/// Activations, [rows, cols], row-major.
#[derive(Debug)]
pub struct Tensor {
    pub(super) data: Buffer,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Tensor {
    /// Creates a tensor with undefined values; the caller must write all of them.
    pub(super) fn unwritten(pool: &Pool, rows: usize, cols: usize) -> Self {
        Tensor { data: pool.take(rows * cols), rows, cols }
    }

    /// Returns one row.
    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..][..self.cols]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn free(pool: &Pool) -> Vec<usize> {
        pool.free.lock().unwrap().iter().map(Vec::len).collect()
    }

    #[test]
    fn a_dropped_buffer_is_handed_out_again_where_it_fits() {
        let pool = Pool::new();
        let [small, large] = [pool.take(100), pool.take(150)];
        drop((large, small));
        assert_eq!(free(&pool), [150, 100]);
        let reused = pool.take(90);
        assert_eq!((reused.len(), reused.storage.len()), (90, 100), "the smallest that fits");
        assert_eq!(pool.take(74).storage.len(), 74, "150 is more than twice as much");
        assert_eq!(pool.take(75).storage.len(), 150);
        assert_eq!(pool.take(0).len(), 0);
    }

    #[test]
    fn the_pool_forgets_what_was_unused_for_longest() {
        let pool = Pool::new();
        let buffers: Vec<Buffer> = (1..=KEPT + 2).map(|i| pool.take(1000 * i)).collect();
        buffers.into_iter().for_each(drop);
        assert_eq!((free(&pool).len(), free(&pool)[0]), (KEPT, 3000));
    }
}
