//! GGUF.

use super::{Admission, Format, Output, Part, Sink, Target};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::numerics::Scheme;
use crate::plan::Plan;
use crate::tensor::{DType, QTensor};

/// GGUF.
#[derive(Debug)]
pub struct Gguf;

impl Format for Gguf {
    fn name(&self) -> &'static str {
        "gguf"
    }
    fn summary(&self) -> &'static str {
        ""
    }
    fn admit(&self, _scheme: &Scheme, _shape: &[usize], _dtype: DType) -> Admission {
        todo!()
    }
    fn parts(&self, _output: &Output, _scheme: &Scheme, _target: &Target) -> Vec<Part> {
        todo!()
    }
    fn row_multiple(&self, _scheme: &Scheme) -> usize {
        todo!()
    }
    fn encode(&self, _q: &QTensor, _first_row: usize, _parts: &[Part], _sink: &mut Sink) -> Result<()> {
        todo!()
    }
    fn side_files(&self, _plan: &Plan, _checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>> {
        todo!()
    }
}
