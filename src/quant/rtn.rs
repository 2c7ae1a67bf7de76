//! rtn

use crate::error::Result;
use crate::method::{Block, Def, Method};

/// Registry entry.
pub const DEF: Def = Def { name: "rtn", summary: "", supports: |_| Ok(()), method: &Rtn };

/// rtn
#[derive(Debug)]
pub struct Rtn;

impl Method for Rtn {
    fn apply(&self, _block: &mut Block) -> Result<()> {
        todo!()
    }
}
