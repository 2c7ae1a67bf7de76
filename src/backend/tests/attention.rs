//! Attention: heads that share keys, masks, ragged spans; and caches, which must not change what comes out.

use super::*;
use crate::backend::{Attention, Span};

pub(super) fn conformance<B: Backend>(backend: &B, tolerance: f32) {
    for spec in specs() {
        for lens in [&[1][..], &[5], &[3, 3, 3], &[1, 4, 2, 2, 7], &[0, 2, 0], &[]] {
            check(backend, &Attend { spec: spec.clone(), lens: lens.to_vec() }, tolerance);
        }
        for steps in [growing(), branching()] {
            let cached = Conversation { spec: spec.clone(), steps, cached: true };
            check(backend, &cached, tolerance);
            if spec.causal {
                let afresh = Conversation { cached: false, ..cached.clone() };
                check_equal(backend, &cached, &afresh, tolerance);
            }
        }
    }
}

/// Every option alone, and those that models combine.
fn specs() -> Vec<Attention> {
    let plain = |heads, kv_heads, head_dim: usize| Attention {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        soft_cap: None,
        window: None,
        slopes: None,
        causal: true,
    };
    let slopes = |heads: i32| Some((1..=heads).map(|head| 2f32.powi(-head)).collect());
    vec![
        plain(1, 1, 1),
        plain(3, 3, 5),
        plain(4, 2, 4),
        plain(6, 1, 3),
        Attention { causal: false, ..plain(4, 2, 4) },
        Attention { window: Some(1), ..plain(2, 1, 4) },
        Attention { window: Some(3), ..plain(4, 2, 4) },
        Attention { window: Some(3), causal: false, ..plain(2, 2, 4) },
        Attention { window: Some(1000), soft_cap: Some(1.5), ..plain(4, 2, 4) },
        Attention { slopes: slopes(3), ..plain(3, 3, 4) },
        Attention { slopes: slopes(4), window: Some(2), soft_cap: Some(0.5), ..plain(4, 2, 8) },
        Attention { slopes: slopes(2), causal: false, ..plain(2, 1, 4) },
    ]
}

/// Columns of q, k and v.
fn widths(spec: &Attention) -> [usize; 3] {
    [spec.heads, spec.kv_heads, spec.kv_heads].map(|heads| heads * spec.head_dim)
}

#[derive(Debug)]
struct Attend {
    spec: Attention,
    lens: Vec<usize>,
}

impl Case for Attend {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let widths = widths(&self.spec);
        let qkv = random(backend, self.lens.iter().sum(), widths.iter().sum(), 1)?;
        let [q, k, v] = backend.split(&qkv, widths)?;
        let spans: Vec<Span> =
            self.lens.iter().enumerate().map(|(slot, &len)| Span { slot, past: 0, len }).collect();
        let mixed = backend.attention(&q, &k, &v, &self.spec, &spans, None)?;
        Ok(vec![shown(backend, &mixed)?])
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// New tokens.
    Run(Vec<Span>),
    /// [`Backend::copy_slot`].
    Copy { from: usize, to: usize, len: usize },
}

/// Runs several sequences step by step; without `cached`, each step begins from the first token.
#[derive(Debug, Clone)]
struct Conversation {
    spec: Attention,
    steps: Vec<Step>,
    cached: bool,
}

const SLOTS: usize = 3;
const TOKENS: usize = 120;

fn run(spans: &[(usize, usize, usize)]) -> Step {
    Step::Run(spans.iter().map(|&(slot, past, len)| Span { slot, past, len }).collect())
}

/// Prompts of different lengths, then token by token, in other orders, beyond what a cache first has room for.
fn growing() -> Vec<Step> {
    vec![
        run(&[(0, 0, 3), (2, 0, 1)]),
        run(&[(2, 1, 1), (0, 3, 1)]),
        run(&[(1, 0, 2), (2, 2, 2), (0, 4, 1)]),
        run(&[(0, 5, 63)]),
        run(&[(1, 2, 1), (0, 68, 1), (2, 4, 0)]),
    ]
}

/// A slot that starts over, one that goes back, copies that then differ, a copy onto what is longer, and onto itself.
fn branching() -> Vec<Step> {
    vec![
        run(&[(0, 0, 5)]),
        Step::Copy { from: 0, to: 1, len: 5 },
        Step::Copy { from: 0, to: 2, len: 2 },
        run(&[(0, 5, 1), (1, 5, 2), (2, 2, 1)]),
        run(&[(1, 3, 2), (0, 6, 1)]),
        Step::Copy { from: 2, to: 1, len: 3 },
        Step::Copy { from: 0, to: 0, len: 4 },
        run(&[(0, 4, 2), (1, 3, 1), (2, 0, 4)]),
        Step::Copy { from: 1, to: 0, len: 0 },
        run(&[(0, 0, 2), (1, 4, 1)]),
    ]
}

impl Case for Conversation {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let [width, kv_width, _] = widths(&self.spec);
        let table = backend.load_table(dense(values(TOKENS, width + 2 * kv_width, 1)))?;
        let mut cache = backend.key_values(kv_width, SLOTS)?;
        let mut said: [Vec<u32>; SLOTS] = Default::default();
        let mut results = Vec::new();
        let mut tokens = 0..TOKENS as u32;
        for step in &self.steps {
            match step {
                &Step::Copy { from, to, len } => {
                    said[to] = said[from][..len].to_vec();
                    if self.cached {
                        backend.copy_slot(&mut cache, from, to, len)?;
                    }
                }
                Step::Run(spans) => {
                    for span in spans {
                        said[span.slot].truncate(span.past);
                        said[span.slot].extend(tokens.by_ref().take(span.len));
                    }
                    results.push(match self.cached {
                        true => self.continued(backend, &table, spans, &said, &mut cache)?,
                        false => self.afresh(backend, &table, spans, &said)?,
                    });
                }
            }
        }
        Ok(results)
    }
}

impl Conversation {
    fn continued<B: Backend>(
        &self,
        backend: &B,
        table: &B::Table,
        spans: &[Span],
        said: &[Vec<u32>],
        cache: &mut B::KeyValues,
    ) -> Result<Vec<f32>> {
        let ids: Vec<u32> = spans.iter().flat_map(|span| said[span.slot][span.past..].to_vec()).collect();
        let [q, k, v] = backend.split(&backend.embed(table, &ids)?, widths(&self.spec))?;
        shown(backend, &backend.attention(&q, &k, &v, &self.spec, spans, Some(cache))?)
    }

    fn afresh<B: Backend>(
        &self,
        backend: &B,
        table: &B::Table,
        spans: &[Span],
        said: &[Vec<u32>],
    ) -> Result<Vec<f32>> {
        let mut results = Vec::new();
        for span in spans {
            let ids = &said[span.slot];
            let whole = Span { slot: 0, past: 0, len: ids.len() };
            let [q, k, v] = backend.split(&backend.embed(table, ids)?, widths(&self.spec))?;
            let mixed = backend.attention(&q, &k, &v, &self.spec, &[whole], None)?;
            results.extend_from_slice(&shown(backend, &mixed)?[span.past * widths(&self.spec)[0]..]);
        }
        Ok(results)
    }
}
