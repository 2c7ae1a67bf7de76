//! gpt-oss' experts in MXFP4: `gate_up_proj_blocks` U8 [E, N, K/32, 16], two codes a byte, the even column low, and
//! `gate_up_proj_scales` U8 [E, N, K/32].
//!
//! The model's own 16-bit form is `gate_up_proj` [E, K, N], experts transposed against a linear, and transformers reads the
//! packed form as that. So do we: an entry of the grid is 32 rows of one column. Source: `convert_moe_packed_tensors`,
//! <https://github.com/huggingface/transformers/blob/main/src/transformers/integrations/mxfp4.py>.

use indexmap::IndexMap;

use super::module::Module;
use crate::error::Result;
use crate::io::source::{Layout, RawTensor, Source, Stored};
use crate::numerics::{Granularity, Scheme};
use crate::tensor::DType;

const BLOCKS: &str = "_blocks";
const SCALES: &str = "_scales";
/// Columns that share a scale, and the bytes of their codes.
const GROUP: usize = 32;

/// A part of packed experts: the stack's name, and the part's role.
pub(super) fn part<'a>(
    tensor: &'a RawTensor,
    raw: &IndexMap<String, RawTensor>,
) -> Option<(&'a str, &'static str)> {
    let parts = [(BLOCKS, SCALES), (SCALES, BLOCKS)];
    let (stack, role, other) = parts.into_iter().find_map(|(role, other)| {
        let stack = tensor.name.strip_suffix(role)?;
        Some((stack, role, format!("{stack}{other}")))
    })?;
    (tensor.dtype == DType::U8 && raw.contains_key(&other)).then_some((stack, role))
}

/// The stack of both parts.
pub(super) fn source(module: Module) -> Result<Source> {
    let blocks = module.part(BLOCKS)?;
    module.typed(blocks, &[DType::U8])?;
    let &[experts, outputs, groups, bytes] = blocks.shape.as_slice() else {
        return Err(module.wrong(blocks, "[experts, out, in/32, 16]", &blocks.shape));
    };
    if bytes != GROUP / 2 {
        return Err(module.wrong(blocks, "[experts, out, in/32, 16]", &blocks.shape));
    }
    module.typed(module.part(SCALES)?, &[DType::U8])?;
    module.shaped(SCALES, &[experts, outputs, groups])?;
    let inputs = groups.checked_mul(GROUP).ok_or_else(|| module.wrong(blocks, "fewer groups", groups))?;
    let scheme = Scheme { granularity: Granularity::Block(GROUP, 1), ..Scheme::MXFP4 };
    let stored = Stored::Quantized { layout: Layout::Mxfp4Experts, scheme, parts: module.parts };
    Ok(Source::new(module.name.to_owned(), vec![experts, inputs, outputs], stored))
}

/// The parts of a stack, as bytes.
pub(super) struct Experts<'a> {
    blocks: &'a [u8],
    scales: &'a [u8],
    outputs: usize,
    groups: usize,
}

impl<'a> Experts<'a> {
    /// The bytes of parts that [`source`] has checked; `of` reads those of a role.
    pub(super) fn new(parts: impl Fn(&str) -> (&'a RawTensor, &'a [u8])) -> Experts<'a> {
        let (raw, blocks) = parts(BLOCKS);
        let (_, scales) = parts(SCALES);
        Experts { blocks, scales, outputs: raw.shape[1], groups: raw.shape[2] }
    }

    /// The codes of one row of the 16-bit form: input `row % in` of expert `row / in`, for each output.
    pub(super) fn codes(&self, row: usize, out: &mut [u8]) {
        let (group, within) = (row / GROUP, row % GROUP);
        let blocks = self.group(self.blocks, group, GROUP / 2);
        for (code, block) in out.iter_mut().zip(blocks) {
            *code = block[within / 2] >> (within % 2 * 4) & 15;
        }
    }

    /// The biased exponents of one row of the grid.
    pub(super) fn exponents(&self, group: usize) -> impl Iterator<Item = u8> {
        self.group(self.scales, group, 1).map(|scale| scale[0])
    }

    /// The entries of `size` bytes that the outputs of one expert have in one group of inputs.
    fn group(&self, bytes: &'a [u8], group: usize, size: usize) -> impl Iterator<Item = &'a [u8]> {
        let (expert, group) = (group / self.groups, group % self.groups);
        let entries = bytes.chunks_exact(size).skip(expert * self.outputs * self.groups + group);
        entries.step_by(self.groups).take(self.outputs)
    }
}
