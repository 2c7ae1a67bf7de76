//! The instruction sets that this machine has, and a fingerprint of its mathematical functions.

use std::hint::black_box;

/// The instruction set that a case runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No sum depends on it: the same on every machine.
    Any,
    /// `LLMC_SIMD=plain`.
    Plain,
    /// `LLMC_SIMD=avx2`. The products of calibration use AVX2 or AVX-512, which give the same bits.
    Avx2,
    /// `LLMC_SIMD=avx512`: without VNNI and bfloat16.
    Avx512,
    /// No limit, on a machine that has all.
    Best,
}

impl Level {
    pub const ALL: [Level; 5] = [Level::Any, Level::Plain, Level::Avx2, Level::Avx512, Level::Best];

    pub fn name(self) -> &'static str {
        match self {
            Level::Any => "any",
            Level::Plain => "plain",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Best => "best",
        }
    }

    /// The value of `LLMC_SIMD`. `Any` runs as the machine does by default.
    pub fn limit(self) -> Option<&'static str> {
        match self {
            Level::Any | Level::Best => None,
            limited => Some(limited.name()),
        }
    }

    /// The digests of a level are valid where this is what it was when they were made; `None` where this machine cannot run
    /// the level.
    pub fn machine(self) -> Option<String> {
        let has = match self {
            Level::Any => return Some("any".to_owned()),
            Level::Plain => true,
            Level::Avx2 => has_avx2(),
            Level::Avx512 => has_avx512(),
            Level::Best => has_all(),
        };
        let architecture = std::env::consts::ARCH;
        has.then(|| format!("{architecture},math={}", functions()))
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    has_avx2() && wide && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl")
}

#[cfg(target_arch = "x86_64")]
fn has_all() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_all() -> bool {
    false
}

/// A digest of exp, ln, sin and the like over many values. The C library computes them, and versions of it differ in last bits.
fn functions() -> String {
    let mut hasher = blake3::Hasher::new();
    for step in 1..4000 {
        let x = black_box(f64::from(step) * 0.004_321);
        let single = black_box(x as f32);
        let double = [x.exp(), (-x).exp(), x.ln(), x.sin(), x.cos(), x.tanh(), x.powf(-1.7), x.exp_m1()];
        let [a, b, c, d] = [single.exp(), (-single).exp(), single.ln(), single.sin()];
        let single = [a, b, c, d, single.cos(), single.tanh(), single.powf(2.3), single.ln_1p()];
        hasher.update(&double.map(f64::to_le_bytes).concat());
        hasher.update(&single.map(f32::to_le_bytes).concat());
    }
    hasher.finalize().to_hex()[..12].to_owned()
}
