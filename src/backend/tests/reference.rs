//! Every operation of a backend in f64, written to be read: what the others are compared with.

use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::sync::Arc;

use ndarray::{Array2, Axis, s};

use crate::backend::*;
use crate::error::Result;
use crate::numerics::Weight;

pub(crate) struct Reference;

pub(crate) struct Linear {
    weight: Array2<f64>,
    bias: Vec<f64>,
}

/// Keys and values [positions, width] of each slot.
pub(crate) struct KeyValues(Vec<[Array2<f64>; 2]>);

fn load(matrix: &dyn Matrix) -> Result<Array2<f64>> {
    let [rows, cols] = matrix.shape();
    let values = match matrix.read(0..rows)? {
        Weight::Dense(values) => values,
        Weight::Quantized(codes) => {
            let mut values = vec![0.0; rows * cols];
            codes.dequantize(&mut values);
            Array2::from_shape_vec((rows, cols), values).unwrap()
        }
    };
    Ok(values.mapv(f64::from))
}

fn stack<'a>(parts: impl IntoIterator<Item = &'a Array2<f64>>) -> Array2<f64> {
    let views: Vec<_> = parts.into_iter().map(|part| part.view()).collect();
    ndarray::concatenate(Axis(0), &views).unwrap()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|value| value / sum).collect()
}

/// erf(x) = 2/√π·e^(−x²)·Σ 2ⁿx²ⁿ⁺¹/(1·3·…·(2n+1)), whose terms all have one sign.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

fn activation(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)),
        Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        Activation::Relu => x.max(0.0),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Clip(limit) => x.clamp(-f64::from(limit), f64::from(limit)),
    }
}

/// One query's mix of the values it sees.
fn attend(
    q: &[f64],
    keys: &Array2<f64>,
    values: &Array2<f64>,
    spec: &Attention,
    head: usize,
    position: usize,
) -> Vec<f64> {
    let size = spec.head_dim;
    let first = head / (spec.heads / spec.kv_heads) * size;
    let seen = |key: usize| {
        (!spec.causal || key <= position) && spec.window.is_none_or(|window| key + window > position)
    };
    let score = |key: usize| {
        let dot: f64 = (0..size).map(|i| q[head * size + i] * keys[[key, first + i]]).sum();
        let score = dot * f64::from(spec.scale);
        let score = spec.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
        let slope = spec.slopes.as_ref().map_or(0.0, |slopes| f64::from(slopes[head]));
        score + slope * (key as f64 - position as f64)
    };
    let keys_seen: Vec<usize> = (0..keys.nrows()).filter(|&key| seen(key)).collect();
    let weights = softmax(&keys_seen.iter().map(|&key| score(key)).collect::<Vec<_>>());
    let mix =
        |i| keys_seen.iter().zip(&weights).map(|(&key, weight)| weight * values[[key, first + i]]).sum();
    (0..size).map(mix).collect()
}

impl Backend for Reference {
    type Tensor = Array2<f64>;
    type Linear = Linear;
    type Table = Array2<f64>;
    type Norm = NormWeights;
    type KeyValues = KeyValues;

    fn load_linear(&self, parts: &[Arc<dyn Matrix>], bias: Option<Vec<f32>>) -> Result<Linear> {
        let parts = parts.iter().map(|part| load(part.as_ref())).collect::<Result<Vec<_>>>()?;
        let weight = stack(&parts);
        let bias = bias.map_or(vec![0.0; weight.nrows()], |bias| widen(&bias));
        Ok(Linear { weight, bias })
    }

    fn load_table(&self, rows: Arc<dyn Matrix>) -> Result<Array2<f64>> {
        load(rows.as_ref())
    }

    fn tied_head(&self, table: &Array2<f64>) -> Result<Linear> {
        Ok(Linear { weight: table.clone(), bias: vec![0.0; table.nrows()] })
    }

    fn load_norm(&self, norm: NormWeights) -> Result<NormWeights> {
        Ok(norm)
    }

    fn key_values(&self, width: usize, slots: usize) -> Result<KeyValues> {
        let empty = || [Array2::zeros((0, width)), Array2::zeros((0, width))];
        Ok(KeyValues((0..slots).map(|_| empty()).collect()))
    }

    fn copy_slot(&self, cache: &mut KeyValues, from: usize, to: usize, len: usize) -> Result<()> {
        cache.0[to] = cache.0[from].each_ref().map(|held| held.slice(s![..len, ..]).to_owned());
        Ok(())
    }

    fn rows(&self, x: &Array2<f64>) -> usize {
        x.nrows()
    }

    fn embed(&self, table: &Array2<f64>, ids: &[u32]) -> Result<Array2<f64>> {
        self.gather(table, ids)
    }

    fn linear(&self, x: &Array2<f64>, linear: &Linear) -> Result<Array2<f64>> {
        let mut y = x.dot(&linear.weight.t());
        for mut row in y.rows_mut() {
            row.iter_mut().zip(&linear.bias).for_each(|(y, bias)| *y += bias);
        }
        Ok(y)
    }

    fn norm(&self, x: &Array2<f64>, norm: &NormWeights) -> Result<Array2<f64>> {
        let mut y = x.clone();
        for mut row in y.rows_mut() {
            for start in (0..row.len()).step_by(norm.width) {
                let mut run = row.slice_mut(s![start..start + norm.width]);
                let mean = if norm.centered { run.mean().unwrap() } else { 0.0 };
                let variance = run.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / norm.width as f64;
                run.mapv_inplace(|x| (x - mean) / (variance + f64::from(norm.epsilon)).sqrt());
            }
            for (i, y) in row.iter_mut().enumerate() {
                let i = i % norm.weight.len();
                *y = *y * f64::from(norm.weight[i]) + norm.bias.as_ref().map_or(0.0, |b| f64::from(b[i]));
            }
        }
        Ok(y)
    }

    fn split<const N: usize>(&self, x: &Array2<f64>, widths: [usize; N]) -> Result<[Array2<f64>; N]> {
        let mut start = 0;
        Ok(widths.map(|width| {
            start += width;
            x.slice(s![.., start - width..start]).to_owned()
        }))
    }

    fn rope(&self, mut x: Array2<f64>, rotations: &Rotations) -> Result<Array2<f64>> {
        let half = rotations.half;
        for (row, mut x) in x.rows_mut().into_iter().enumerate() {
            for head in (0..x.len()).step_by(rotations.head_dim) {
                for i in 0..half {
                    let (cos, sin) =
                        (f64::from(rotations.cos[row * half + i]), f64::from(rotations.sin[row * half + i]));
                    let (a, b) = (x[head + i], x[head + i + half]);
                    (x[head + i], x[head + i + half]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
        }
        Ok(x)
    }

    fn attention(
        &self,
        q: &Array2<f64>,
        k: &Array2<f64>,
        v: &Array2<f64>,
        spec: &Attention,
        spans: &[Span],
        mut cache: Option<&mut KeyValues>,
    ) -> Result<Array2<f64>> {
        let mut result = Vec::new();
        let mut start = 0;
        for span in spans {
            let rows = s![start..start + span.len, ..];
            let mut held = [k, v].map(|x| x.slice(rows).to_owned());
            if let Some(cache) = &mut cache {
                let before = cache.0[span.slot].each_ref().map(|x| x.slice(s![..span.past, ..]).to_owned());
                held = [stack([&before[0], &held[0]]), stack([&before[1], &held[1]])];
                cache.0[span.slot] = held.clone();
            }
            for (i, q) in q.slice(rows).rows().into_iter().enumerate() {
                let (q, position) = (q.to_vec(), span.past + i);
                (0..spec.heads)
                    .for_each(|head| result.extend(attend(&q, &held[0], &held[1], spec, head, position)));
            }
            start += span.len;
        }
        Ok(Array2::from_shape_vec(q.dim(), result).unwrap())
    }

    fn activate(&self, x: Array2<f64>, function: Activation) -> Result<Array2<f64>> {
        Ok(x.mapv(|x| activation(x, function)))
    }

    fn gate(&self, x: &Array2<f64>, function: Activation) -> Result<Array2<f64>> {
        let half = x.ncols() / 2;
        let [left, right] = self.split(x, [half, half])?;
        Ok(self.activate(left, function)? * right)
    }

    fn add(&self, x: Array2<f64>, y: &Array2<f64>) -> Result<Array2<f64>> {
        Ok(x + y)
    }

    fn scale(&self, x: Array2<f64>, factor: f32) -> Result<Array2<f64>> {
        Ok(x * f64::from(factor))
    }

    fn soft_cap(&self, x: Array2<f64>, cap: f32) -> Result<Array2<f64>> {
        Ok(x.mapv(|x| f64::from(cap) * (x / f64::from(cap)).tanh()))
    }

    fn gather(&self, x: &Array2<f64>, rows: &[u32]) -> Result<Array2<f64>> {
        let rows: Vec<usize> = rows.iter().map(|&row| row as usize).collect();
        Ok(x.select(Axis(0), &rows))
    }

    fn scatter_add(
        &self,
        mut x: Array2<f64>,
        rows: &[u32],
        y: &Array2<f64>,
        weights: &Array2<f64>,
    ) -> Result<Array2<f64>> {
        for (i, &row) in rows.iter().enumerate() {
            x.row_mut(row as usize).scaled_add(weights[[i, 0]], &y.row(i));
        }
        Ok(x)
    }

    fn route(&self, logits: &Array2<f64>, routing: Routing) -> Result<Vec<Route<Array2<f64>>>> {
        let mut chosen = vec![Vec::new(); logits.ncols()];
        for (row, logits) in logits.rows().into_iter().enumerate() {
            let weights = softmax(&logits.to_vec());
            let mut order: Vec<usize> = (0..weights.len()).collect();
            order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
            order.truncate(routing.top_k);
            let sum: f64 = order.iter().map(|&expert| weights[expert]).sum();
            let divisor = if routing.renormalize { sum } else { 1.0 };
            order.iter().for_each(|&expert| chosen[expert].push((row as u32, weights[expert] / divisor)));
        }
        let chosen = chosen.into_iter().enumerate().filter(|(_, tokens)| !tokens.is_empty());
        Ok(chosen
            .map(|(expert, tokens)| {
                let (rows, weights): (Vec<u32>, Vec<f64>) = tokens.into_iter().unzip();
                let weights = Array2::from_shape_vec((rows.len(), 1), weights).unwrap();
                Route { expert, rows, weights }
            })
            .collect())
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Array2<f64>> {
        Ok(Array2::zeros((rows, cols)))
    }

    fn tensor(&self, rows: usize, cols: usize, values: &[f32]) -> Result<Array2<f64>> {
        Ok(Array2::from_shape_fn((rows, cols), |(row, col)| f64::from(values[row * cols + col])))
    }

    fn read<R>(&self, x: &Array2<f64>, look: impl FnOnce(&[f32]) -> R) -> Result<R> {
        Ok(look(&x.iter().map(|&x| x as f32).collect::<Vec<_>>()))
    }
}
