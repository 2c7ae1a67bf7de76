//! A quantized weight, its values in float64, and a plain packer: kernels/README.md's formulas, bit by bit.

use crate::emulator::Memory;
use crate::numbers::{Float, Random};

/// What a kernel's name says of its weight.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    pub bits: usize,
    pub float: Float,
    pub zeros: bool,
}

impl Variant {
    /// Every one that is built.
    pub fn all() -> impl Iterator<Item = Variant> {
        let of = |bits| {
            Float::ALL
                .into_iter()
                .flat_map(move |float| [false, true].map(|zeros| Variant { bits, float, zeros }))
        };
        [4, 8].into_iter().flat_map(of)
    }

    /// `gemv_w4_f16_zero`.
    pub fn kernel(self, operation: &str) -> String {
        let zero = if self.zeros { "_zero" } else { "" };
        format!("{operation}_w{}_{}{zero}", self.bits, self.float.name())
    }
}

/// Logical codes and their grid: [n, k] and [n, groups].
pub struct Weight {
    pub variant: Variant,
    pub n: usize,
    pub k: usize,
    /// 32, 64, 128, or `k128` for one per channel.
    pub group: usize,
    codes: Vec<u8>,
    scales: Vec<f64>,
    zeros: Vec<u8>,
}

/// The same in device memory.
pub struct Packed {
    pub codes: Memory,
    pub scales: Memory,
    pub zeros: Option<Memory>,
}

impl Weight {
    /// `group` 0 is one scale per channel.
    pub fn random(variant: Variant, n: usize, k: usize, group: usize, random: &mut Random) -> Weight {
        let group = if group == 0 { k.next_multiple_of(128) } else { group };
        let groups = k.next_multiple_of(128).div_ceil(group);
        let levels = 1 << variant.bits;
        let codes = (0..n * k).map(|_| random.below(levels) as u8).collect();
        let scale = |random: &mut Random| variant.float.round((2.0 + random.signed()) / levels as f64);
        let scales = (0..n * groups).map(|_| scale(random)).collect();
        let zero = |random: &mut Random| if variant.zeros { random.below(levels) } else { levels / 2 };
        let zeros = (0..n * groups).map(|_| zero(random) as u8).collect();
        Weight { variant, n, k, group, codes, scales, zeros }
    }

    pub fn k128(&self) -> usize {
        self.k.next_multiple_of(128)
    }

    pub fn n64(&self) -> usize {
        self.n.next_multiple_of(64)
    }

    fn groups(&self) -> usize {
        self.k128().div_ceil(self.group)
    }

    /// (code − zero)·scale.
    pub fn value(&self, n: usize, k: usize) -> f64 {
        let entry = n * self.groups() + k / self.group;
        (f64::from(self.codes[n * self.k + k]) - f64::from(self.zeros[entry])) * self.scales[entry]
    }

    fn code(&self, n: usize, k: usize) -> u8 {
        if n < self.n && k < self.k { self.codes[n * self.k + k] } else { 0 }
    }

    pub fn pack(&self) -> Packed {
        let zeros = self.grid(|entry| vec![self.zeros[entry]], vec![0]);
        let float = self.variant.float;
        Packed {
            codes: Memory::of(&self.pack_codes()),
            scales: Memory::of(&self.grid(|entry| float.bytes(&[self.scales[entry]]), vec![0; 2])),
            zeros: self.variant.zeros.then(|| Memory::of(&zeros)),
        }
    }

    fn pack_codes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for strip in (0..self.n64()).step_by(64) {
            for tile in (0..self.k128()).step_by(16) {
                let at = |n, k| self.code(strip + n, tile + k);
                match self.variant.bits {
                    4 => w4_tile(at, &mut bytes),
                    _ => w8_tile(at, &mut bytes),
                }
            }
        }
        bytes
    }

    /// [strips][groups][64], row n of a strip at 8·(n%8) + n/8.
    fn grid(&self, entry: impl Fn(usize) -> Vec<u8>, padding: Vec<u8>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for strip in (0..self.n64()).step_by(64) {
            for group in 0..self.groups() {
                for position in 0..64 {
                    let n = strip + position / 8 + 8 * (position % 8);
                    let real = n < self.n && group * self.group < self.k;
                    bytes.extend(if real { entry(n * self.groups() + group) } else { padding.clone() });
                }
            }
        }
        bytes
    }
}

fn w4_tile(code: impl Fn(usize, usize) -> u8, bytes: &mut Vec<u8>) {
    for lane in 0..32 {
        for j in 0..4 {
            let nibble = |p: usize| {
                let (k, n) = (2 * (lane % 4) + p / 4 + 8 * (p % 2), 16 * j + lane / 4 + 8 * ((p % 4) / 2));
                u32::from(code(n, k)) << (4 * p)
            };
            bytes.extend((0..8).map(nibble).sum::<u32>().to_le_bytes());
        }
    }
}

fn w8_tile(code: impl Fn(usize, usize) -> u8, bytes: &mut Vec<u8>) {
    for vector in 0..2 {
        for lane in 0..32 {
            for j in 0..4 {
                let n = 32 * vector + 8 * j + lane / 4;
                bytes.extend((0..4).map(|p| code(n, 2 * (lane % 4) + p / 2 + 8 * (p % 2))));
            }
        }
    }
}
