//! Tests against the results of other engines for the same weights: fixtures/numerics, with its generator.

use half::{bf16, f16};
use ndarray::Array2;
use safetensors::SafeTensors;

use super::{Context, Extent, Fp8, Granularity, QTensor, ScaleType, Scheme, convert, fp8, pack};
use crate::tensor::DType;

static FILE: &[u8] = include_bytes!("../../fixtures/numerics/goldens.safetensors");

fn bytes(name: &str) -> Vec<u8> {
    SafeTensors::deserialize(FILE).unwrap().tensor(name).unwrap().data().to_vec()
}

fn floats(name: &str) -> Vec<f32> {
    bytes(name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn weights() -> Array2<f32> {
    Array2::from_shape_vec((6, 192), floats("weights")).unwrap()
}

fn quantize(scheme: &Scheme) -> QTensor {
    let w = weights();
    let extent = Some(Extent::of(w.as_slice().unwrap()));
    scheme.quantize(w.view(), &Context { extent, importance: None })
}

fn dequantize(q: &QTensor) -> Vec<f32> {
    q.values().into_raw_vec_and_offset().0
}

const GRANULARITIES: [(&str, Granularity); 4] = [
    ("tensor", Granularity::Tensor),
    ("channel", Granularity::Channel),
    ("group32", Granularity::Group(32)),
    ("block", Granularity::Block(4, 64)),
];

#[test]
fn symmetric_integers_match_compressed_tensors() {
    for (bits, (name, granularity)) in (2..=8).flat_map(|bits| GRANULARITIES.map(|g| (bits, g))) {
        let q = quantize(&Scheme::int(bits, granularity, true, ScaleType::BF16));
        let case = format!("int{bits}.sym.{name}");
        assert_eq!(q.as_scalar().grid.scales, floats(&format!("{case}.scale")), "{case}");
        assert_eq!(q.as_scalar().codes, bytes(&format!("{case}.codes")), "{case}");
        if name == "group32" {
            assert_eq!(dequantize(&q), floats(&format!("{case}.values")), "{case}");
        }
    }
}

#[test]
fn asymmetric_integers_match_compressed_tensors() {
    for (bits, (name, granularity)) in (2..=8).flat_map(|bits| GRANULARITIES.map(|g| (bits, g))) {
        let q = quantize(&Scheme::int(bits, granularity, false, ScaleType::F32));
        let case = format!("int{bits}.asym.{name}");
        assert_eq!(q.as_scalar().grid.scales, floats(&format!("{case}.scale")), "{case}");
        assert_eq!(q.as_scalar().grid.zero_points, bytes(&format!("{case}.zero_point")), "{case}");
        assert_eq!(q.as_scalar().codes, bytes(&format!("{case}.codes")), "{case}");
        if name == "group32" {
            assert_eq!(dequantize(&q), floats(&format!("{case}.values")), "{case}");
        }
    }
}

/// Packs 187 columns: rows end within a word for every number of bits.
#[test]
fn packed_rows_and_columns_match_compressed_tensors() {
    for bits in 2..=8 {
        let case = format!("int{bits}.sym.group32");
        let codes: Vec<u8> =
            bytes(&format!("{case}.codes")).chunks(192).flat_map(|row| row[..187].to_vec()).collect();
        let mut rows = vec![0xFF; 6 * pack::row_len(187, bits)];
        pack::pack_rows(&codes, 187, bits, &mut rows);
        assert_eq!(rows, bytes(&format!("{case}.packed")), "{case}");
        let mut columns = vec![0xFF; 187 * pack::row_len(6, bits)];
        pack::pack_columns(&codes, 187, bits, &mut columns);
        assert_eq!(columns, bytes(&format!("{case}.packed_columns")), "{case}");
    }
}

#[test]
fn fp8_matches_compressed_tensors() {
    for (name, granularity) in GRANULARITIES {
        let q = quantize(&Scheme::fp8(Fp8::E4M3, granularity, ScaleType::BF16));
        assert_eq!(q.as_scalar().grid.scales, floats(&format!("fp8.{name}.scale")), "{name}");
        assert_eq!(q.as_scalar().codes, bytes(&format!("fp8.{name}.codes")), "{name}");
        assert_eq!(dequantize(&q), floats(&format!("fp8.{name}.values")), "{name}");
    }
}

#[test]
fn nvfp4_and_mxfp4_match_compressed_tensors() {
    for (name, scheme) in [("nvfp4", Scheme::NVFP4), ("mxfp4", Scheme::MXFP4)] {
        let q = quantize(&scheme);
        let mut packed = vec![0; q.as_scalar().codes.len() / 2];
        pack::pack(&q.as_scalar().codes, 4, &mut packed);
        assert_eq!(q.as_scalar().grid.scales, floats(&format!("{name}.scale")), "{name}");
        assert_eq!(packed, bytes(&format!("{name}.packed")), "{name}");
        assert_eq!(dequantize(&q), floats(&format!("{name}.values")), "{name}");
    }
    assert_eq!(quantize(&Scheme::NVFP4).as_scalar().grid.global_scale, Some(floats("nvfp4.global_scale")[0]));
}

#[test]
fn nf4_matches_bitsandbytes() {
    let q = quantize(&Scheme::nf4(64, ScaleType::F32));
    let dead = ScaleType::F32.of_zeros();
    let scales: Vec<f32> = floats("nf4.scale").into_iter().map(|s| if s == 0.0 { dead } else { s }).collect();
    assert_eq!(q.as_scalar().grid.scales, scales);
    assert_eq!(q.as_scalar().codes, bytes("nf4.codes"));
    assert_eq!(dequantize(&q), floats("nf4.values"));
}

fn check_cast(name: &str, dtype: DType, largest: f32) {
    let (values, expected) = (floats("cast.f32"), bytes(&format!("cast.{name}")));
    let mut ours = Vec::new();
    convert::from_f32(dtype, &values, &mut ours);
    let size = dtype.block_bytes();
    for ((value, ours), expected) in values.iter().zip(ours.chunks(size)).zip(expected.chunks(size)) {
        // Beyond the largest value, torch's E4M3 is NaN and its E5M2 infinity; ours saturates.
        if value.abs() <= largest {
            assert_eq!(ours, expected, "{value} to {name}");
        }
    }
}

#[test]
fn casts_match_torch() {
    check_cast("bf16", DType::BF16, f32::INFINITY);
    check_cast("f16", DType::F16, f32::INFINITY);
    check_cast("e4m3", DType::F8E4M3, 448.0);
    check_cast("e5m2", DType::F8E5M2, 57344.0);
}

#[test]
fn all_256_values_of_fp8_match_torch() {
    for (name, format) in [("e4m3", Fp8::E4M3), ("e5m2", Fp8::E5M2)] {
        for (code, expected) in floats(&format!("cast.{name}_values")).into_iter().enumerate() {
            let ours = fp8::table(format)[code];
            assert!(
                ours == expected || ours.is_nan() && expected.is_nan(),
                "{name} {code:#x}: {ours} {expected}"
            );
            assert_eq!(ours.is_sign_negative(), code >= 0x80);
        }
    }
}

#[test]
fn conversions_back_to_f32_match_half() {
    let (wide, narrow) = (bytes("cast.bf16"), bytes("cast.f16"));
    let mut out = vec![0.0; wide.len() / 2];
    convert::to_f32(DType::BF16, &wide, &mut out);
    assert!(out.iter().zip(wide.as_chunks::<2>().0).all(|(v, b)| *v == bf16::from_le_bytes(*b).to_f32()));
    convert::to_f32(DType::F16, &narrow, &mut out);
    assert!(out.iter().zip(narrow.as_chunks::<2>().0).all(|(v, b)| *v == f16::from_le_bytes(*b).to_f32()));
}
