//! Plans: every tensor of an output, what becomes of it and why, before any work.
//!
//! Begin with [`Plan`] (`resolved.rs`) and its [`TensorPlan`]s (`tensors.rs`); `planner.rs` makes them of a recipe and a
//! checkpoint, and asks a [`Format`] (`format.rs`) about each tensor.

mod budget;
mod format;
mod fuse;
mod globs;
mod input;
mod nothing;
mod planner;
mod request;
mod resolved;
mod role;
mod roles;
mod several;
mod show;
mod tensors;

pub(crate) use budget::{Allotment, Sensitivity};
pub use format::{Admission, Capabilities, Contents, Engine, Format, LayoutContext, OutputFile, PartPlace};
pub(crate) use format::{KERNEL_GROUPS, SINGLE_FILE_NAME, Sink, slow_group};
pub(crate) use input::check_input;
pub use request::Request;
pub use resolved::Plan;
pub(crate) use role::{FUSED_PROJECTIONS, apart, is_number, layer_path, predicting_from};
pub use roles::Roles;
pub(crate) use several::agree;
pub use tensors::{Action, Measured, OutputTensor, Part, Piece, TensorPlan};
