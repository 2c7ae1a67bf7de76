//! mse

use crate::error::Result;
use crate::method::{Block, Def, Method};

/// Registry entry.
pub const DEF: Def = Def { name: "mse", summary: "", supports: |_| Ok(()), method: &Mse };

/// mse
#[derive(Debug)]
pub struct Mse;

impl Method for Mse {
    fn apply(&self, _block: &mut Block) -> Result<()> {
        todo!()
    }
}
