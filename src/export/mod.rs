//! Formats: where the bytes of a quantized or dense tensor go. A format is pure: it says what it can hold, which parts
//! it stores, and how rows of codes become bytes; [`pipeline`](crate::pipeline) does the I/O. It never sees a method.
//!
//! # Adding a format
//! One file here that opens with the layout to the bit and a link to the readers' source, one line in [`FORMATS`]:
//! 1. [`Format::admit`] says, from what the readers check, what they load: the scheme as it is, another one, or none. The
//!    plan shows the reasons, and `--strict` turns them into errors, so that they should read well.
//! 2. [`Format::parts`] names the stored tensors; sizes follow from it before anything is computed.
//! 3. [`Format::encode`] lays out a range of rows. Ranges come in any order and from several threads; each byte of a part
//!    is written once. Where codes are packed along rows, [`Format::row_multiple`] keeps ranges on whole words.
//! 4. [`Format::side_files`] writes the config that engines read; `modules` says which modules it names.
//!
//! Then goldens that the engine's own code wrote (fixtures/formats), and the tests in tests/formats.rs hold the format:
//! they iterate [`FORMATS`]. Reading it back is [`crate::io::quantized`]'s.

pub(crate) mod adapter;
pub(crate) mod awq;
pub(crate) mod compressed_tensors;
pub(crate) mod dense;
pub(crate) mod gguf;
pub(crate) mod gptq;
mod layout;
mod model_config;
mod modules;
mod patterns;
pub(crate) mod shards;

use crate::plan::Format;

/// Every format, in the order `--help` lists them.
pub const FORMATS: &[&dyn Format] = &[
    &compressed_tensors::CompressedTensors,
    &gptq::Gptq { version: 1 },
    &gptq::Gptq { version: 2 },
    &awq::Awq,
    &gguf::Gguf,
    &dense::Dense,
];
