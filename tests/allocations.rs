//! A forward pass that repeats the shapes of the last one allocates nothing: every result lies in a buffer that an earlier
//! one left behind.
#![allow(clippy::unwrap_used)]

#[path = "hostile/alloc.rs"]
mod alloc;

use std::ops::Range;
use std::sync::Arc;

use llmc::backend::cpu::{Activations, Cpu, KeyValueCache};
use llmc::backend::{Activation, Attention, Backend, Matrix, NormWeights, Rotations, Span};
use llmc::error::Result;
use llmc::numerics::Weight;
use llmc::tensor::DType;
use ndarray::Array2;

struct Dense(Array2<f32>);

impl Matrix for Dense {
    fn name(&self) -> &str {
        "matrix"
    }

    fn shape(&self) -> [usize; 2] {
        [self.0.nrows(), self.0.ncols()]
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        Ok(Weight::Dense(self.0.slice(ndarray::s![rows, ..]).to_owned()))
    }

    fn release(&self) {}
}

fn matrix(rows: usize, cols: usize) -> Arc<dyn Matrix> {
    Arc::new(Dense(Array2::from_shape_fn((rows, cols), |(i, j)| ((i * 7 + j) % 13) as f32 / 13.0 - 0.5)))
}

const HEADS: usize = 3;
const HEAD_DIM: usize = 20;
const WIDTH: usize = HEADS * HEAD_DIM;
const HIDDEN: usize = 100;

/// A decoder of one block.
struct Model {
    cpu: Cpu,
    norm: NormWeights,
    qkv: <Cpu as Backend>::Linear,
    gate_up: <Cpu as Backend>::Linear,
    down: <Cpu as Backend>::Linear,
    spec: Attention,
}

impl Model {
    fn new() -> Self {
        let cpu = Cpu::new(Activations::Auto);
        let weight = vec![1.0; WIDTH];
        Model {
            norm: NormWeights { width: WIDTH, weight, bias: None, epsilon: 1e-5, centered: false },
            qkv: cpu.load_linear(&[matrix(WIDTH, WIDTH), matrix(2 * HEAD_DIM, WIDTH)], None).unwrap(),
            gate_up: cpu.load_linear(&[matrix(2 * HIDDEN, WIDTH)], Some(vec![0.5; 2 * HIDDEN])).unwrap(),
            down: cpu.load_linear(&[matrix(WIDTH, HIDDEN)], None).unwrap(),
            spec: Attention {
                heads: HEADS,
                kv_heads: 1,
                head_dim: HEAD_DIM,
                scale: 0.2,
                soft_cap: Some(30.0),
                window: None,
                slopes: None,
                causal: true,
            },
            cpu,
        }
    }

    fn forward(
        &self,
        x: &<Cpu as Backend>::Tensor,
        turn: &Rotations,
        spans: &[Span],
        cache: Option<&mut KeyValueCache>,
    ) -> f32 {
        let cpu = &self.cpu;
        let normed = cpu.norm(x, &self.norm).unwrap();
        let qkv = cpu.linear(&normed, &self.qkv).unwrap();
        let [q, k, v] = cpu.split(&qkv, [WIDTH, HEAD_DIM, HEAD_DIM]).unwrap();
        let [q, k] = [q, k].map(|heads| cpu.rope(heads, turn).unwrap());
        let attended = cpu.attention(&q, &k, &v, &self.spec, spans, cache).unwrap();
        let x = cpu.add(attended, x).unwrap();
        let gated = cpu.gate(&cpu.linear(&x, &self.gate_up).unwrap(), Activation::Silu).unwrap();
        let x = cpu.add(cpu.linear(&gated, &self.down).unwrap(), &x).unwrap();
        let last = cpu.gather(&cpu.scale(x, 2.0).unwrap(), &[0]).unwrap();
        cpu.read(&cpu.soft_cap(last, 30.0).unwrap(), |values| values[0]).unwrap()
    }
}

/// Bytes that a pass over `rows` new rows after `past` allocates, once such a pass has been made.
fn allocated(rows: usize, past: usize, cached: bool) -> usize {
    let model = Model::new();
    let table = model.cpu.load_table(matrix(past + rows, WIDTH)).unwrap();
    let ids: Vec<u32> = (0..(past + rows) as u32).collect();
    let rotations = |rows: usize| {
        let half = HEAD_DIM / 2;
        Rotations { cos: vec![0.6; rows * half], sin: vec![0.8; rows * half], half, head_dim: HEAD_DIM }
    };
    let mut cache = model.cpu.key_values(HEAD_DIM, 1).unwrap();
    if cached {
        let before = model.cpu.embed(&table, &ids[..past]).unwrap();
        let spans = [Span { slot: 0, past: 0, len: past }];
        model.forward(&before, &rotations(past), &spans, Some(&mut cache));
    }
    let x = model.cpu.embed(&table, &ids[past..]).unwrap();
    let turn = rotations(rows);
    let mut pass =
        || model.forward(&x, &turn, &[Span { slot: 0, past, len: rows }], cached.then_some(&mut cache));
    let (first, cold) = alloc::allocated(&mut pass);
    assert!(cold > 0, "nothing is counted");
    pass();
    let (again, bytes) = alloc::allocated(pass);
    assert_eq!(first, again);
    bytes
}

#[test]
fn a_repeated_pass_allocates_nothing() {
    // One thread, whose allocations are counted: buffers in flight on several threads may differ from pass to pass.
    let threads = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for (rows, past, cached) in [(1, 0, false), (1, 300, true), (3, 20, true), (70, 0, false), (70, 65, true)]
    {
        let bytes = threads.install(|| allocated(rows, past, cached));
        assert_eq!(bytes, 0, "{rows} rows after {past}, cached: {cached}");
    }
}
