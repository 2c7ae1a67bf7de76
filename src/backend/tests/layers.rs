//! Weights and what is computed row by row: linear layers, tables, norms, rotations, element-wise functions.

use super::*;
use crate::backend::{Activation, NormWeights, Rotations};
use crate::numerics::{Granularity, ScaleType};
use crate::tensor::BlockType;

pub(super) fn conformance<B: Backend>(backend: &B, tolerance: Tolerance) {
    for case in linears() {
        let quantized = case.parts.iter().any(|part| part.scheme.is_some());
        check(backend, &case, if quantized { tolerance.quantized } else { tolerance.dense });
    }
    check(backend, &Embedding, tolerance.dense);
    norms().iter().for_each(|case| check(backend, case, tolerance.other));
    ropes().iter().for_each(|case| check(backend, case, tolerance.other));
    pointwise().iter().for_each(|case| check(backend, case, tolerance.other));
    check(backend, &Columns, tolerance.dense);
}

#[derive(Debug, Clone, Copy)]
struct Part {
    rows: usize,
    dtype: DType,
    scheme: Option<Scheme>,
}

#[derive(Debug)]
struct Linear {
    rows: usize,
    cols: usize,
    parts: Vec<Part>,
    bias: bool,
}

fn linears() -> Vec<Linear> {
    let part = |rows| Part { rows, dtype: DType::F32, scheme: None };
    let bf16 = |rows| Part { dtype: DType::BF16, ..part(rows) };
    let quantized = |rows, scheme| Part { scheme: Some(scheme), ..part(rows) };
    let int4 = Scheme::int(4, Granularity::Group(32), false, ScaleType::F16);
    let int8 = Scheme::int(8, Granularity::Channel, true, ScaleType::F32);
    let short_group = Scheme::int(4, Granularity::Group(32), true, ScaleType::F32);
    let [q8_0, q4_k] = [BlockType::Q8_0, BlockType::Q4_K].map(Scheme::ggml);
    let case = |rows, cols, parts: &[Part], bias| Linear { rows, cols, parts: parts.to_vec(), bias };
    vec![
        case(1, 1, &[part(1)], false),
        case(3, 7, &[part(5)], true),
        case(0, 5, &[part(4)], true),
        case(2, 33, &[part(1), part(17), part(3)], true),
        case(17, 64, &[bf16(16), part(31), bf16(2)], false),
        case(1, 700, &[part(1600)], false),
        case(5, 64, &[quantized(19, int4)], true),
        case(1, 64, &[quantized(33, int8)], false),
        case(4, 50, &[quantized(7, short_group)], false),
        case(2, 256, &[quantized(18, q8_0), quantized(5, q4_k)], true),
        case(3, 256, &[part(3), quantized(16, q4_k), bf16(1), quantized(9, int4)], true),
    ]
}

impl Case for Linear {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let stored = |(part, seed): (&Part, u64)| -> Arc<dyn Matrix> {
            let Part { rows, dtype, scheme } = *part;
            Arc::new(Stored { values: values(rows, self.cols, seed), dtype, scheme })
        };
        let parts: Vec<_> = self.parts.iter().zip(1..).map(stored).collect();
        let out = self.parts.iter().map(|part| part.rows).sum();
        let bias = self.bias.then(|| values(1, out, 9).into_raw_vec_and_offset().0);
        let linear = backend.load_linear(&parts, bias)?;
        let x = random(backend, self.rows, self.cols, 8)?;
        Ok(vec![shown(backend, &backend.linear(&x, &linear)?)?])
    }
}

/// A table whose rows are looked up twice, out of order and not at all, and that is the head too.
#[derive(Debug)]
struct Embedding;

impl Case for Embedding {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let table = backend.load_table(dense(values(11, 6, 1)))?;
        let rows = backend.embed(&table, &[10, 3, 3, 0])?;
        let none = backend.embed(&table, &[])?;
        let logits = backend.linear(&rows, &backend.tied_head(&table)?)?;
        [rows, none, logits].iter().map(|x| shown(backend, x)).collect()
    }
}

#[derive(Debug)]
struct Norm {
    rows: usize,
    cols: usize,
    factor: f32,
    norm: NormWeights,
}

fn norms() -> Vec<Norm> {
    let vector = |len, seed| values(1, len, seed).into_raw_vec_and_offset().0;
    let rms = |width, len| NormWeights {
        width,
        weight: vector(len, 2),
        bias: None,
        epsilon: 1e-5,
        centered: false,
    };
    let layer = |width, len| NormWeights {
        bias: Some(vector(len, 3)),
        epsilon: 1e-12,
        centered: true,
        ..rms(width, len)
    };
    let case = |rows, cols, factor, norm| Norm { rows, cols, factor, norm };
    vec![
        case(3, 7, 1.0, rms(7, 7)),
        case(1, 1, 1.0, rms(1, 1)),
        case(2, 33, 4096.0, rms(33, 33)),
        case(2, 9, 0.0, rms(9, 9)),
        case(2, 12, 1.0, rms(4, 4)),
        case(2, 12, 1.0, rms(4, 12)),
        case(3, 24, 1.0, rms(4, 8)),
        case(5, 17, 1.0, layer(17, 17)),
        case(2, 10, 64.0, layer(5, 5)),
        case(2, 10, 1.0, layer(5, 10)),
        case(0, 8, 1.0, rms(8, 8)),
    ]
}

impl Case for Norm {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let norm = backend.load_norm(self.norm.clone())?;
        let x = backend.scale(random(backend, self.rows, self.cols, 1)?, self.factor)?;
        Ok(vec![shown(backend, &backend.norm(&x, &norm)?)?])
    }
}

#[derive(Debug)]
struct Rope {
    rows: usize,
    heads: usize,
    head_dim: usize,
    half: usize,
}

fn ropes() -> Vec<Rope> {
    let case = |rows, heads, head_dim, half| Rope { rows, heads, head_dim, half };
    vec![
        case(1, 1, 2, 1),
        case(5, 3, 8, 4),
        case(3, 2, 10, 3),
        case(2, 5, 7, 1),
        case(0, 2, 4, 2),
        case(9, 1, 64, 32),
    ]
}

/// Rotations by arbitrary angles, scaled as YaRN's attention factor does.
pub(crate) fn rotations(rows: usize, half: usize, head_dim: usize) -> Rotations {
    let angle = |i: usize| i as f32 * 0.37 - 1.0;
    let all = |f: fn(f32) -> f32| (0..rows * half).map(|i| 1.25 * f(angle(i))).collect();
    Rotations { cos: all(f32::cos), sin: all(f32::sin), half, head_dim }
}

impl Case for Rope {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let x = random(backend, self.rows, self.heads * self.head_dim, 1)?;
        let rotations = rotations(self.rows, self.half, self.head_dim);
        Ok(vec![shown(backend, &backend.rope(x, &rotations)?)?])
    }
}

/// An element-wise operation over small values, and over some that overflow what is computed carelessly.
#[derive(Debug, Clone, Copy)]
enum Pointwise {
    Activate(Activation),
    Gate(Activation),
    Scale(f32),
    SoftCap(f32),
    Add,
    Zeros,
}

fn pointwise() -> Vec<Pointwise> {
    use Activation::*;
    let functions = [Silu, Gelu, GeluTanh, Relu, Sigmoid, Clip(0.7)];
    let mut cases: Vec<_> =
        functions.into_iter().flat_map(|f| [Pointwise::Activate(f), Pointwise::Gate(f)]).collect();
    cases.extend([0.0, -0.5, 22.627417].map(Pointwise::Scale));
    cases.extend([Pointwise::SoftCap(30.0), Pointwise::SoftCap(0.5), Pointwise::Add, Pointwise::Zeros]);
    cases
}

const EXTREMES: [f32; 14] =
    [0.0, -0.0, 1.0, -1.0, 0.5, -3.0, 3.0, -8.0, 8.0, 20.0, -20.0, 100.0, -100.0, 1024.0];

impl Case for Pointwise {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let extremes = Array2::from_shape_vec((1, EXTREMES.len()), EXTREMES.to_vec()).unwrap();
        let inputs = [extremes, values(3, 34, 1), values(0, 6, 1)];
        let run = |input: &Array2<f32>| {
            let x = tensor(backend, input)?;
            let y = match *self {
                Pointwise::Activate(activation) => backend.activate(x, activation)?,
                Pointwise::Gate(activation) => backend.gate(&x, activation)?,
                Pointwise::Scale(factor) => backend.scale(x, factor)?,
                Pointwise::SoftCap(cap) => backend.soft_cap(x, cap)?,
                Pointwise::Add => backend.add(x, &random(backend, input.nrows(), input.ncols(), 2)?)?,
                Pointwise::Zeros => backend.zeros(input.nrows(), input.ncols())?,
            };
            shown(backend, &y)
        };
        inputs.iter().map(run).collect()
    }
}

/// The parts of `split` are tensors like any other, even as views of columns.
#[derive(Debug)]
struct Columns;

impl Case for Columns {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let x = random(backend, 4, 19, 1)?;
        let [a, b, c, d] = backend.split(&x, [5, 4, 9, 1])?;
        let linear = backend.load_linear(&[dense(values(3, 5, 2))], None)?;
        let norm = NormWeights { width: 2, weight: vec![1.0; 2], bias: None, epsilon: 1e-6, centered: false };
        let norm = backend.load_norm(norm)?;
        let [c1, c2] = backend.split(&c, [5, 4])?;
        let [row, _] = backend.split(&backend.gather(&x, &[0])?, [5, 14])?;
        let results = [
            backend.linear(&a, &linear)?,
            backend.norm(&b, &norm)?,
            backend.gather(&b, &[3, 1, 1])?,
            backend.gate(&b, Activation::Silu)?,
            backend.rope(c2, &rotations(4, 1, 2))?,
            backend.add(c1, &a)?,
            backend.scatter_add(a, &[2], &row, &backend.gather(&d, &[3])?)?,
        ];
        results.iter().map(|x| shown(backend, x)).collect()
    }
}
