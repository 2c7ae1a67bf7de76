//! The parts that architectures are put together from, for one import.

pub(super) use crate::backend::Activation;
pub(super) use crate::error::{Error, Result};
pub(super) use crate::model::arch::{
    Arch, Changes, DECODER_KEYS, Fixed, GgufForm, HEAD_KEYS, HasTensor, Key, KeyType, Missing, RMS_KEYS,
    adjust, complete, float, int,
};
pub(super) use crate::model::description::{Model, Outline, RotationDefaults};
pub(super) use crate::model::feed_forward::experts::SharedExpert;
pub(super) use crate::model::feed_forward::gated::GateUp;
pub(super) use crate::model::feed_forward::{Dense, Experts, FeedForward, Gated};
pub(super) use crate::model::frame::{EmbeddingTables, Frame, LearnedPositions, NormKind};
pub(super) use crate::model::layer::{Layer, Norms, SublayerNorms};
pub(super) use crate::model::mixer::attention::{HeadNorms, Projections};
pub(super) use crate::model::mixer::{Attention, Mixer};
pub(super) use crate::model::rope::Rope;
pub(super) use crate::model::rotary::Rotary;
pub(super) use crate::model::settings::{SettingKeys, Settings};
