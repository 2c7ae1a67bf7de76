//! Everything that reads a whole model and writes one: the only place that loops over tensors and blocks.
//!
//! Tensors are streamed in chunks: row ranges of about 2¹⁸ weights, taken in order by the threads of the pool. Each chunk is
//! read, quantized, laid out and written to its place by itself. Memory is a few chunks, whatever the size of the
//! checkpoint, and the bytes do not depend on the number of threads. Stages that read the inputs of linears work on whole
//! decoder blocks instead, one after the other.
//!
//! Begin with [`run`]; `stream/` has the loop over chunks, `blocks/` the loop over decoder blocks, `output/` the files that
//! are written, and `verify/` reads them back.

mod blocks;
pub(crate) mod fault;
mod options;
mod output;
mod run;
mod shape;
mod stream;
mod verify;

pub use blocks::{BlockReport, CalibrationInput, ExpertReport, LinearReport, Survey, calibrate};
pub(crate) use blocks::{
    Estimate, check_device, estimate, hidden_state_bytes, outliers, recall, sensitivity, unmeasured, untie,
};
pub use options::{Event, Options, Outcome, Target};
pub(crate) use output::{
    check_target, input_digest, model_digest, own_text, partial_bytes, provenance, record_path,
};
pub(crate) use run::peak_memory;
pub use run::run;
pub(crate) use shape::{
    Survey as ShapeSurvey, divergences_of, forget_survey, held_out, survey as survey_shape,
};
pub(crate) use stream::total_input_bytes;
pub(crate) use verify::{TensorCheck, Verification, recorded_recipe, verify, verify_alone};
