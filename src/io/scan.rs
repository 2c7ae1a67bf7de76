//! Looking for NaN and infinities in values that were read.

/// Values looked at together: small enough for counters of 32 bits, large enough to leave no trace in the time.
const CHUNK: usize = 4096;
/// The exponent bits of an f32: all set in NaN and infinities alone.
const EXPONENT: u32 = 0x7f80_0000;

/// Counts values that are (NaN, infinite). At the speed of memory if there are none.
pub(crate) fn nonfinite_count(values: &[f32]) -> (usize, usize) {
    values
        .chunks(CHUNK)
        .filter(|chunk| any_nonfinite(chunk))
        .map(count)
        .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
}

/// Without an early exit, so that it is vectorized.
fn any_nonfinite(values: &[f32]) -> bool {
    values.iter().map(|value| u32::from(value.to_bits() & EXPONENT == EXPONENT)).sum::<u32>() != 0
}

fn count(values: &[f32]) -> (usize, usize) {
    let nan = values.iter().filter(|value| value.is_nan()).count();
    (nan, values.iter().filter(|value| value.is_infinite()).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_the_plain_count_counts() {
        let odd =
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN, f32::MAX, f32::MIN, -0.0, 1e-45, 0.0];
        for len in [0, 1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
            let values: Vec<f32> =
                (0..len).map(|i| if i % 97 == 3 { odd[i % odd.len()] } else { i as f32 }).collect();
            assert_eq!(nonfinite_count(&values), count(&values), "{len} values");
        }
        assert_eq!(nonfinite_count(&odd), (2, 2));
        assert_eq!(nonfinite_count(&[f32::MAX; 3 * CHUNK]), (0, 0));
    }
}
