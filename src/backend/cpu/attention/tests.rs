//! Attention compared with a plain softmax over the full matrix of scores, in f64.

use super::super::level::Level;
use super::*;
use crate::numerics::random::SplitMix64;
use crate::test_support::signed;

fn random(random: &mut SplitMix64, pool: &Pool, [rows, cols]: [usize; 2], size: f32) -> Tensor {
    let mut tensor = Tensor::unwritten(pool, rows, cols);
    tensor.data.iter_mut().for_each(|value| *value = size * signed(random));
    tensor
}

/// All keys and values of a sequence.
#[derive(Clone, Default)]
struct History {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl History {
    fn push(&mut self, k: &Tensor, v: &Tensor, rows: std::ops::Range<usize>) {
        let range = rows.start * k.cols..rows.end * k.cols;
        self.keys.extend_from_slice(&k.data[range.clone()]);
        self.values.extend_from_slice(&v.data[range]);
    }
}

/// Returns the expected output of one head for the query at `position`.
fn expected(spec: &Attention, history: &History, position: usize, head: usize, q: &[f32]) -> Vec<f64> {
    let (width, head_dim) = (spec.kv_heads * spec.head_dim, spec.head_dim);
    let column = head / (spec.heads / spec.kv_heads) * head_dim;
    let at = |data: &[f32], key: usize, i: usize| f64::from(data[key * width + column + i]);
    let len = history.keys.len() / width;
    let seen = |key: &usize| {
        (!spec.causal || *key <= position) && spec.window.is_none_or(|window| key + window > position)
    };
    let keys: Vec<usize> = (0..len).filter(seen).collect();
    let score = |&key: &usize| {
        let product: f64 = (0..head_dim).map(|i| f64::from(q[i]) * at(&history.keys, key, i)).sum();
        let score = f64::from(spec.scale) * product;
        let capped = spec.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
        let slope = spec.slopes.as_ref().map_or(0.0, |slopes| f64::from(slopes[head]));
        capped + slope * (key as f64 - position as f64)
    };
    let scores: Vec<f64> = keys.iter().map(score).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let value = |i| keys.iter().zip(&weights).map(|(key, w)| w * at(&history.values, *key, i)).sum::<f64>();
    (0..head_dim).map(|i| value(i) / total).collect()
}

fn compare(case: &str, spec: &Attention, q: &Tensor, out: &Tensor, places: &[(usize, usize, &History)]) {
    // In long batches, only the last rows and some of the others are compared, because the reference is slow.
    let looked_at = |row: usize| row + 24 >= places.len() || row.is_multiple_of(7);
    for (row, (position, _, history)) in places.iter().enumerate().filter(|(row, _)| looked_at(*row)) {
        for head in 0..spec.heads {
            let columns = head * spec.head_dim..(head + 1) * spec.head_dim;
            let expected = expected(spec, history, *position, head, &q.row(row)[columns.clone()]);
            for (computed, expected) in out.row(row)[columns].iter().zip(&expected) {
                let close = (f64::from(*computed) - expected).abs() <= 1e-5;
                assert!(close, "{case}: row {row}, head {head}: {computed}, not {expected}");
            }
        }
    }
}

fn spec(heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
    let scale = 1.0 / (head_dim as f32).sqrt();
    Attention { heads, kv_heads, head_dim, scale, soft_cap: None, window: None, slopes: None, causal: true }
}

/// Checks sequences with these pasts and lengths with a cache, at every level. The past is filled in one batch.
fn check_cached(spec: &Attention, spans: &[(usize, usize)], size: f32) {
    let case = format!("{spec:?} {spans:?}");
    let pool = Pool::new();
    let width = spec.kv_heads * spec.head_dim;
    for level in Level::usable() {
        let mut numbers = SplitMix64(7);
        let mut cache = KeyValueCache::new(width, spans.len());
        let mut histories = vec![History::default(); spans.len()];
        let batches = [spans.iter().map(|s| (0, s.0)).collect::<Vec<_>>(), spans.to_vec()];
        for batch in batches {
            let spans: Vec<Span> =
                batch.iter().enumerate().map(|(slot, &(past, len))| Span { slot, past, len }).collect();
            let rows = spans.iter().map(|span| span.len).sum();
            let q = random(&mut numbers, &pool, [rows, spec.heads * spec.head_dim], size);
            let k = random(&mut numbers, &pool, [rows, width], size);
            let v = random(&mut numbers, &pool, [rows, width], 1.0);
            for place in places(&spans) {
                histories[place.span.slot].push(&k, &v, place.row..place.row + place.span.len);
            }
            let out = attend(level, &pool, &q, &k, &v, spec, &spans, Some(&mut cache));
            let rows: Vec<(usize, usize, &History)> = places(&spans)
                .flat_map(|p| (0..p.span.len).map(move |i| (p.span.past + i, p.row + i, p.span.slot)))
                .map(|(position, row, slot)| (position, row, &histories[slot]))
                .collect();
            compare(&format!("{level:?} {case}"), spec, &q, &out, &rows);
        }
    }
}

/// Checks sequences of these lengths without a cache.
fn check_batch(spec: &Attention, lens: &[usize]) {
    let pool = Pool::new();
    let width = spec.kv_heads * spec.head_dim;
    let rows = lens.iter().sum();
    let mut numbers = SplitMix64(3);
    let q = random(&mut numbers, &pool, [rows, spec.heads * spec.head_dim], 2.0);
    let [k, v] = [0, 1].map(|_| random(&mut numbers, &pool, [rows, width], 1.0));
    let spans: Vec<Span> = lens.iter().map(|&len| Span { slot: 0, past: 0, len }).collect();
    let histories: Vec<History> = places(&spans)
        .map(|place| {
            let mut history = History::default();
            history.push(&k, &v, place.row..place.row + place.span.len);
            history
        })
        .collect();
    let positions: Vec<(usize, usize, &History)> = places(&spans)
        .zip(&histories)
        .flat_map(|(place, history)| (0..place.span.len).map(move |i| (i, place.row + i, history)))
        .collect();
    for level in Level::usable() {
        let out = attend(level, &pool, &q, &k, &v, spec, &spans, None);
        compare(&format!("{level:?} {spec:?} {lens:?}"), spec, &q, &out, &positions);
    }
}

#[test]
fn heads_of_every_size_and_sharing() {
    for (heads, kv_heads) in [(1, 1), (3, 1), (3, 3), (9, 3), (8, 1)] {
        for head_dim in [1, 5, 8, 16, 64] {
            check_cached(&spec(heads, kv_heads, head_dim), &[(0, 3), (5, 1)], 1.0);
            check_cached(&spec(heads, kv_heads, head_dim), &[(63, 1), (0, 11)], 1.0);
        }
    }
    for head_dim in [80, 96, 128, 256] {
        check_cached(&spec(2, 1, head_dim), &[(65, 2), (0, 9)], 1.0);
        check_batch(&spec(2, 1, head_dim), &[9, 1]);
    }
}

#[test]
fn sequences_of_any_length_continue_at_any_position() {
    for past in [0, 1, 63, 64, 65, 200, 300] {
        for len in [1, 2, 7, 40, 66] {
            check_cached(&spec(3, 1, 8), &[(past, len)], 1.0);
        }
        check_cached(&spec(3, 1, 16), &[(past, 1), (1, 5), (0, 33), (past, 3)], 1.0);
        check_cached(&spec(3, 1, 16), &[(past, 1), (1, 1), (600, 1), (past, 3)], 1.0);
    }
    check_batch(&spec(3, 1, 16), &[1, 64, 1, 65, 7]);
    check_batch(&spec(3, 1, 16), &[1, 2, 3]);
}

#[test]
fn windows_caps_slopes_and_encoders() {
    let plain = spec(3, 1, 8);
    for window in [None, Some(1), Some(5), Some(64), Some(70)] {
        for soft_cap in [None, Some(0.5)] {
            for slopes in [None, Some(vec![0.5, 0.25, 0.0])] {
                for causal in [true, false] {
                    let spec =
                        Attention { window, soft_cap, slopes: slopes.clone(), causal, ..plain.clone() };
                    check_batch(&spec, &[1, 70, 9]);
                    check_batch(&spec, &[1, 3, 5]);
                    check_cached(&spec, &[(0, 3), (130, 20)], 1.0);
                    check_cached(&spec, &[(600, 2), (130, 1)], 1.0);
                }
            }
        }
    }
}

#[test]
fn huge_scores_neither_overflow_nor_vanish() {
    // Scores of up to ±8·10¹⁸: one key has all the weight.
    check_cached(&spec(3, 1, 8), &[(64, 70), (0, 1)], 1e9);
    let steep = Attention { slopes: Some(vec![1e6, 1e30, 1e-6]), ..spec(3, 1, 8) };
    check_cached(&steep, &[(64, 70), (200, 1)], 1.0);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let pool = Pool::new();
    let spec = spec(9, 3, 64);
    for spans in [&[Span { slot: 0, past: 0, len: 150 }][..], &[Span { slot: 0, past: 0, len: 1 }; 3]] {
        let mut numbers = SplitMix64(9);
        let rows = spans.iter().map(|span| span.len).sum();
        let q = random(&mut numbers, &pool, [rows, 576], 1.0);
        let [k, v] = [0, 1].map(|_| random(&mut numbers, &pool, [rows, 192], 1.0));
        let results = [1, 2, 3].map(|threads| {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let out = threads.install(|| attend(Level::detect(), &pool, &q, &k, &v, &spec, spans, None));
            out.data.to_vec()
        });
        assert!(results.iter().all(|result| *result == results[0]));
    }
}
