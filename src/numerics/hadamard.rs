//! Orthogonal matrices that spread every coordinate over all others: Hadamard matrices with random signs.
//!
//! A width n = p·m is the Kronecker product of the Walsh–Hadamard matrix of a power of two p and a matrix of m: a Hadamard
//! matrix by Paley's constructions if they have one of m's order (12, 20, 28, 36, …), else a random orthogonal one.
//! A product with a vector takes n·(log₂ p + m) operations.

use ndarray::Array2;

use super::random::SplitMix64;

/// R = D·(H_p ⊗ M), [width, width], orthogonal: D random signs, H_p Walsh–Hadamard, M Hadamard or random, each normalized.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    /// The diagonal of D, \[width\].
    signs: Vec<f32>,
    /// M, [m, m].
    inner: Array2<f32>,
}

impl Rotation {
    /// Creates the rotation of `width` coordinates that belongs to a seed.
    pub(crate) fn new(width: usize, seed: u64) -> Rotation {
        let mut random = SplitMix64(seed);
        let signs = (0..width).map(|_| if random.next() >> 63 == 0 { 1.0 } else { -1.0 }).collect();
        Rotation { signs, inner: inner(width, &mut random) }
    }

    /// Returns the number of coordinates.
    pub(crate) fn width(&self) -> usize {
        self.signs.len()
    }

    /// Replaces a row vector x, \[width\], by x·R.
    ///
    /// # Panics
    /// If x has another width.
    pub(crate) fn apply(&self, x: &mut [f32]) {
        assert_eq!(x.len(), self.width(), "a rotation of another width");
        x.iter_mut().zip(&self.signs).for_each(|(x, sign)| *x *= sign);
        let m = self.inner.nrows();
        walsh_hadamard(x, m);
        if m > 1 {
            for part in x.chunks_exact_mut(m) {
                let product = ndarray::aview1(part).dot(&self.inner);
                part.iter_mut().zip(product).for_each(|(x, y)| *x = y);
            }
        }
    }
}

/// Multiplies by the normalized Walsh–Hadamard matrix over runs of `stride` values: x: [p, stride], p a power of two.
fn walsh_hadamard(x: &mut [f32], stride: usize) {
    let (mut half, norm) = (stride, ((x.len() / stride.max(1)) as f32).sqrt().recip());
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            low.iter_mut().zip(high).for_each(|(a, b)| (*a, *b) = (*a + *b, *a - *b));
        }
        half *= 2;
    }
    x.iter_mut().for_each(|x| *x *= norm);
}

/// Returns M for a width: of the smallest order whose quotient is a power of two and that has a Hadamard matrix here.
fn inner(width: usize, random: &mut SplitMix64) -> Array2<f32> {
    let (odd, doublings) = (width >> width.trailing_zeros().min(63), width.trailing_zeros());
    if odd <= 1 {
        return Array2::ones((odd, odd));
    }
    let orders = (2..=doublings).map(|n| odd << n);
    orders.filter_map(paley).next().unwrap_or_else(|| orthogonal(odd, random))
}

/// Returns the normalized Hadamard matrix of an order, by Paley's first construction (order − 1 a prime ≡ 3 mod 4) or his
/// second (order/2 − 1 a prime ≡ 1 mod 4); `None` for other orders.
///
/// Paley 1933, "On Orthogonal Matrices".
fn paley(order: usize) -> Option<Array2<f32>> {
    let norm = (order as f32).sqrt().recip();
    if order.is_multiple_of(4) && is_prime(order - 1) {
        let conference = conference(order - 1, -1.0);
        return Some((conference + Array2::<f32>::eye(order)) * norm);
    }
    let half = order / 2;
    if !order.is_multiple_of(4) || half % 4 != 2 || !is_prime(half - 1) {
        return None;
    }
    let conference = conference(half - 1, 1.0);
    let entry = |(row, col): (usize, usize)| {
        let c = conference[[row / 2, col / 2]];
        match (row / 2 == col / 2, row % 2, col % 2) {
            // Zeros on the diagonal become [[1, −1], [−1, −1]], ±1 become ±[[1, 1], [1, −1]].
            (true, 0, 0) => norm,
            (true, ..) => -norm,
            (false, 1, 1) => -c * norm,
            (false, ..) => c * norm,
        }
    };
    Some(Array2::from_shape_fn((order, order), entry))
}

/// Returns [[0, 1], [±1, Q]] with Q the quadratic residues of a prime, [prime + 1, prime + 1]: skew for −1, symmetric for 1.
fn conference(prime: usize, sign: f32) -> Array2<f32> {
    let mut residue = vec![-1.0; prime];
    (1..prime).for_each(|x| residue[x * x % prime] = 1.0);
    residue[0] = 0.0;
    Array2::from_shape_fn((prime + 1, prime + 1), |(row, col)| match (row, col) {
        (0, 0) => 0.0,
        (0, _) => 1.0,
        (_, 0) => sign,
        _ => residue[(row + prime - col) % prime],
    })
}

fn is_prime(n: usize) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

/// Returns a random orthogonal matrix: Gram–Schmidt, twice for accuracy, on normal vectors.
fn orthogonal(n: usize, random: &mut SplitMix64) -> Array2<f32> {
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(n);
    while rows.len() < n {
        let mut row: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        for _ in 0..2 {
            for other in &rows {
                let dot: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= dot * b);
            }
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        rows.push(row);
    }
    Array2::from_shape_fn((n, n), |(row, col)| rows[row][col] as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::largest;

    /// Returns R, row by row.
    fn matrix(rotation: &Rotation) -> Array2<f32> {
        let mut rows = Array2::eye(rotation.width());
        for mut row in rows.rows_mut() {
            rotation.apply(row.as_slice_mut().expect("a row of a new array"));
        }
        rows
    }

    fn distance(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
        largest((a - b).mapv(f32::abs))
    }

    #[test]
    fn rotations_are_orthogonal() {
        for width in [1, 2, 3, 7, 8, 12, 30, 36, 48, 64, 84, 96, 112, 576, 896] {
            let r = matrix(&Rotation::new(width, 5));
            assert!(distance(&r.dot(&r.t()), &Array2::eye(width)) < 1e-5, "{width}");
        }
    }

    #[test]
    fn the_fast_product_is_that_with_the_matrix() {
        let rotation = Rotation::new(24, 3);
        let m = rotation.inner.nrows();
        let sign =
            |row: usize, col: usize| if (row & col).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        let p = 24 / m;
        let plain = Array2::from_shape_fn((24, 24), |(row, col)| {
            let walsh = sign(row / m, col / m) / (p as f32).sqrt();
            rotation.signs[row] * walsh * rotation.inner[[row % m, col % m]]
        });
        assert!(distance(&plain, &matrix(&rotation)) < 1e-6);
    }

    /// All entries of a Hadamard matrix have one magnitude: one outlier is spread over all coordinates evenly.
    #[test]
    fn widths_of_known_orders_are_spread_evenly() {
        for width in [1, 2, 16, 12, 20, 24, 28, 36, 64, 576, 768, 896, 1536, 5120] {
            let mut x = vec![0.0; width];
            x[width / 3] = 1.0;
            Rotation::new(width, 1).apply(&mut x);
            let even = (width as f32).sqrt().recip();
            assert!(x.iter().all(|x| (x.abs() - even).abs() < 1e-5), "{width}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_rotation() {
        assert_eq!(matrix(&Rotation::new(30, 1)), matrix(&Rotation::new(30, 1)));
        assert!(distance(&matrix(&Rotation::new(30, 1)), &matrix(&Rotation::new(30, 2))) > 0.1);
    }
}
