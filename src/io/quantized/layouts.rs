//! The parts of each layout: from a module's tensors to its logical shape and scheme, or to the error that
//! says which part breaks which rule. Shapes and types only; the one content read is `weight_shape`.

use super::module::Module;
use crate::error::{Error, Result};
use crate::io::source::{Layout, Source};
use crate::numerics::{Fp8, Granularity, Number, ScaleType, Scheme};
use crate::tensor::DType;

/// Types that scales are stored in where the format doesn't fix one.
const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

/// compressed-tensors pack-quantized: `weight_packed` I32 [N, ceil(K·b/32)], `weight_scale`, `weight_shape` I64 [2], and
/// for asymmetric weights `weight_zero_point`; upstream compressors/pack_quantized.
pub(super) fn packed(module: Module) -> Result<Source> {
    let [rows, words] = module.matrix("weight_packed", &[DType::I32])?;
    let [shape_rows, cols] = weight_shape(&module)?;
    let part = module.part("weight_packed")?;
    if rows != shape_rows {
        return Err(module.wrong(part, format!("{shape_rows} rows as weight_shape says"), &part.shape));
    }
    let bits = packed_bits(&module, words, cols)?;
    let granularity = module.granularity("weight_scale", rows, cols)?;
    let scale = module.scale_type("weight_scale", &FLOATS)?;
    let symmetric = !module.parts.contains_key("weight_zero_point");
    let scheme = Scheme::int(bits, granularity, symmetric, scale);
    zero_points(&module, &scheme, rows, cols)?;
    if module.parts.contains_key("weight_g_idx") {
        g_idx(&module, "weight_g_idx", cols)?;
    }
    Ok(module.source(Layout::CompressedPacked, scheme, [rows, cols]))
}

/// [N, K] as `weight_shape` holds them.
fn weight_shape(module: &Module) -> Result<[usize; 2]> {
    let part = module.part("weight_shape")?;
    module.typed(part, &[DType::I64, DType::I32])?;
    module.shaped("weight_shape", &[2])?;
    let dims: Vec<i64> = match part.dtype {
        DType::I64 => module.bytes(part).as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        _ => module.bytes(part).as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect(),
    };
    match dims.as_slice() {
        &[n, k] if n >= 0 && k >= 0 => Ok([n as usize, k as usize]),
        other => Err(module.wrong(part, "two sizes", other)),
    }
}

/// Words that one row of `cols` codes takes; `None` where that overflows.
fn words_for(cols: usize, bits: u8) -> Option<usize> {
    Some(cols.checked_mul(bits.into())?.div_ceil(32))
}

/// The bits that make `cols` codes fill `words` words: what the configuration claims, else the only ones that do.
fn packed_bits(module: &Module, words: usize, cols: usize) -> Result<u8> {
    let part = module.part("weight_packed")?;
    let fits = |bits: &u8| words_for(cols, *bits) == Some(words);
    let claimed: Vec<u8> = module.config.claims.iter().filter_map(|claim| claim.bits).collect();
    if let Some(&bits) = claimed.iter().find(|bits| fits(bits)) {
        return Ok(bits);
    }
    let possible: Vec<u8> = (2..=8).filter(fits).collect();
    match possible.as_slice() {
        &[bits] if claimed.is_empty() => Ok(bits),
        [] => Err(module.wrong(part, format!("rows of {cols} codes of 2 to 8 bits"), &part.shape)),
        _ if claimed.is_empty() => Err(Error::unsupported(
            format!("{}: rows of {cols} codes in {words} words may be of {possible:?} bits", part.name),
            "put the checkpoint's config.json, which says how many, beside the file",
        )),
        _ => Err(module.wrong(
            part,
            format!("rows of {cols} codes of {claimed:?} bits (config.json)"),
            &part.shape,
        )),
    }
}

/// Checks `weight_zero_point` where it must be, and that it is where the configuration says so: I32 packed along the
/// rows of the grid, or I8 in the shape of the scales (one per tensor, and int-quantized).
fn zero_points(module: &Module, scheme: &Scheme, rows: usize, cols: usize) -> Result<()> {
    if scheme.symmetric {
        let asymmetric = |c: &super::config::Claim| c.symmetric == Some(false);
        let claims = &module.config.claims;
        let required = !claims.is_empty() && claims.iter().all(asymmetric);
        return if required { module.part("weight_zero_point").map(drop) } else { Ok(()) };
    }
    let part = module.part("weight_zero_point")?;
    module.typed(part, &[DType::I32, DType::I8])?;
    if part.dtype == DType::I8 {
        return module.shaped("weight_zero_point", &module.part("weight_scale")?.shape);
    }
    let Number::Int { bits } = scheme.number else { return Ok(()) };
    let [rows, cols] = scheme.grid_shape(rows, cols);
    let packed = words_for(rows, bits).ok_or_else(|| module.wrong(part, "fewer rows", rows))?;
    module.shaped("weight_zero_point", &[packed, cols])
}

/// Checks a column → group index.
fn g_idx(module: &Module, role: &str, cols: usize) -> Result<()> {
    module.typed(module.part(role)?, &[DType::I32, DType::I64])?;
    module.shaped(role, &[cols])
}

/// compressed-tensors int-, float- and naive-quantized, MXFP8, and plain FP8: `weight` I8 or F8 [N, K], and `weight_scale`
/// or (DeepSeek) `weight_scale_inv`, which multiplies all the same.
pub(super) fn plain(module: Module) -> Result<Source> {
    let shape = module.matrix("weight", &[DType::I8, DType::F8E4M3, DType::F8E5M2])?;
    bytes(module, "weight", shape)
}

/// Codes of one byte: I8 or F8 in the part `codes`, and their scales.
pub(super) fn bytes(module: Module, codes: &str, [rows, cols]: [usize; 2]) -> Result<Source> {
    let role = scale_role(&module);
    let granularity = module.granularity(role, rows, cols)?;
    let [f16, bf16, f32] = FLOATS;
    let scale = module.scale_type(role, &[f16, bf16, f32, DType::U8, DType::F8E8M0])?;
    let scheme = match module.part(codes)?.dtype {
        DType::F8E4M3 => Scheme::fp8(Fp8::E4M3, granularity, scale),
        DType::F8E5M2 => Scheme::fp8(Fp8::E5M2, granularity, scale),
        _ => {
            let bits = module.config.claims.iter().find_map(|claim| claim.bits).unwrap_or(8);
            Scheme::int(bits, granularity, !module.parts.contains_key("weight_zero_point"), scale)
        }
    };
    zero_points(&module, &scheme, rows, cols)?;
    Ok(module.source(Layout::CompressedPlain, scheme, [rows, cols]))
}

/// The role of a plain layout's scales.
pub(super) fn scale_role(module: &Module) -> &'static str {
    if module.parts.contains_key("weight_scale_inv") { "weight_scale_inv" } else { "weight_scale" }
}

/// compressed-tensors nvfp4-pack-quantized (with `weight_global_scale`) and mxfp4-pack-quantized: `weight_packed` U8
/// [N, K/2], `weight_scale` F8_E4M3 [N, K/16] or E8M0 [N, K/32]; upstream compressors/nvfp4, compressors/mxfp4.
pub(super) fn fp4(module: Module) -> Result<Source> {
    let [rows, bytes] = module.matrix("weight_packed", &[DType::U8])?;
    let part = module.part("weight_packed")?;
    let cols = bytes.checked_mul(2).ok_or_else(|| module.wrong(part, "fewer columns", bytes))?;
    let scale = module.scale_type("weight_scale", &[DType::F8E4M3, DType::U8, DType::F8E8M0])?;
    let (layout, scheme, group) = match scale {
        ScaleType::E4M3 => (Layout::CompressedNvFp4, Scheme::NVFP4, 16),
        _ => (Layout::CompressedMxFp4, Scheme::MXFP4, 32),
    };
    module.shaped("weight_scale", &[rows, cols.div_ceil(group)])?;
    if layout == Layout::CompressedNvFp4 {
        one_value(&module, "weight_global_scale")?;
    }
    Ok(module.source(layout, scheme, [rows, cols]))
}

/// ModelOpt's NVFP4: `weight` U8 [N, K/2], `weight_scale` F8_E4M3 [N, K/16], and `weight_scale_2` F32, one value, which multiplies;
/// upstream modelopt/torch/quantization/qtensor/nvfp4_tensor.py.
pub(super) fn modelopt(module: Module) -> Result<Source> {
    let [rows, bytes] = module.matrix("weight", &[DType::U8])?;
    let part = module.part("weight")?;
    let cols = bytes.checked_mul(2).ok_or_else(|| module.wrong(part, "fewer columns", bytes))?;
    module.typed(module.part("weight_scale")?, &[DType::F8E4M3])?;
    module.shaped("weight_scale", &[rows, cols.div_ceil(16)])?;
    one_value(&module, "weight_scale_2")?;
    Ok(module.source(Layout::ModelOptNvFp4, Scheme::NVFP4, [rows, cols]))
}

/// Checks a scale of the whole tensor.
fn one_value(module: &Module, role: &str) -> Result<()> {
    let part = module.part(role)?;
    module.typed(part, &[DType::F32])?;
    if part.shape.iter().all(|&dim| dim == 1) {
        return Ok(());
    }
    Err(module.wrong(part, "one value", &part.shape))
}

/// GPTQ and AWQ GEMM, which share their parts' names: GPTQ's `qweight` is [K·b/32, N], AWQ's [K, N/8]; `scales` are [G, N]
/// in both.
pub(super) fn transposed(module: Module) -> Result<Source> {
    let [height, width] = module.matrix("qweight", &[DType::I32])?;
    let [groups, rows] = module.matrix("scales", &FLOATS)?;
    let part = module.part("qweight")?;
    if width == rows {
        gptq(module, height, groups, rows)
    } else if width.checked_mul(8) == Some(rows) {
        awq(module, height, groups, rows)
    } else {
        Err(module.wrong(
            part,
            format!("{rows} columns (GPTQ) or {} (AWQ) for scales of {rows}", rows / 8),
            &part.shape,
        ))
    }
}

/// `qzeros` I32 [G, N·b/32] says how many bits, `g_idx` I32 [K] how many columns.
fn gptq(module: Module, height: usize, groups: usize, rows: usize) -> Result<Source> {
    let [zero_groups, zero_words] = module.matrix("qzeros", &[DType::I32])?;
    let qzeros = module.part("qzeros")?;
    let fits = |bits: &u8| words_for(rows, *bits) == Some(zero_words);
    let claimed = module.config.claims.iter().find_map(|claim| claim.bits);
    let bits = claimed.into_iter().chain([4, 8, 3, 2]).find(fits).filter(|_| zero_groups == groups);
    let bits = bits.filter(|bits| matches!(bits, 2 | 3 | 4 | 8)).ok_or_else(|| {
        module.wrong(qzeros, format!("[{groups}, {rows}·b/32] for b of 2, 3, 4 or 8 bits"), &qzeros.shape)
    })?;
    let cols = gptq_columns(&module, height, bits)?;
    let granularity = transposed_granularity(&module, groups, cols)?;
    let scale = module.scale_type("scales", &FLOATS)?;
    let symmetric = module.config.claims.iter().any(|claim| claim.symmetric == Some(true));
    let layout = if module.config.gptq_v2 { Layout::GptqV2 } else { Layout::GptqV1 };
    Ok(module.source(layout, Scheme::int(bits, granularity, symmetric, scale), [rows, cols]))
}

/// Columns packed into `height` words: as many as `g_idx` has, else as many as fit.
fn gptq_columns(module: &Module, height: usize, bits: u8) -> Result<usize> {
    let qweight = module.part("qweight")?;
    let Some(index) = module.parts.get("g_idx") else {
        return Ok(height.checked_mul(32).ok_or_else(|| module.wrong(qweight, "fewer columns", height))?
            / usize::from(bits));
    };
    let &[cols] = index.shape.as_slice() else {
        return Err(module.wrong(index, "one group per column", &index.shape));
    };
    g_idx(module, "g_idx", cols)?;
    if words_for(cols, bits) == Some(height) {
        return Ok(cols);
    }
    Err(module.wrong(
        qweight,
        format!("{cols} codes of {bits} bits per column, as g_idx and qzeros say"),
        &qweight.shape,
    ))
}

/// Without zero points (`"zero_point": false`) there are no `qzeros`.
fn awq(module: Module, cols: usize, groups: usize, rows: usize) -> Result<Source> {
    let symmetric = !module.parts.contains_key("qzeros");
    if !symmetric {
        module.matrix("qzeros", &[DType::I32])?;
        module.shaped("qzeros", &[groups, rows / 8])?;
    }
    if let Some(bits) = module.config.claims.iter().find_map(|claim| claim.bits).filter(|&bits| bits != 4) {
        let part = module.part("qweight")?;
        return Err(module.wrong(part, format!("{bits} bits (config.json)"), &part.shape));
    }
    let granularity = transposed_granularity(&module, groups, cols)?;
    let scale = module.scale_type("scales", &FLOATS)?;
    Ok(module.source(Layout::Awq, Scheme::int(4, granularity, symmetric, scale), [rows, cols]))
}

/// The granularity with so many groups per row: what the configuration claims, else an even division.
fn transposed_granularity(module: &Module, groups: usize, cols: usize) -> Result<Granularity> {
    let claimed = module.config.claims.iter().find_map(|claim| claim.granularity);
    let count = |granularity: &Granularity| match *granularity {
        Granularity::Group(group) => cols.div_ceil(group),
        _ => 1,
    };
    if let Some(granularity) = claimed.filter(|g| count(g) == groups) {
        return Ok(granularity);
    }
    let free = claimed.is_none() || module.config.overridden;
    match groups {
        1 if free => Ok(Granularity::Channel),
        _ if free && groups > 0 && cols > 0 && cols.is_multiple_of(groups) => {
            Ok(Granularity::Group(cols / groups))
        }
        _ => {
            let scales = module.part("scales")?;
            let said = claimed.map_or("an even division".to_owned(), |g| format!("{g:?} (config.json)"));
            Err(module.wrong(scales, format!("groups of {cols} columns by {said}"), &scales.shape))
        }
    }
}
