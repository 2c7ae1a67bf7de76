//! hqq

use crate::error::Result;
use crate::method::{Block, Def, Method};

/// Registry entry.
pub const DEF: Def = Def { name: "hqq", summary: "", supports: |_| Ok(()), method: &Hqq };

/// hqq
#[derive(Debug)]
pub struct Hqq;

impl Method for Hqq {
    fn apply(&self, _block: &mut Block) -> Result<()> {
        todo!()
    }
}
