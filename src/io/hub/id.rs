//! Names of models on the hub.

use std::fmt::{self, Display, Formatter};

use crate::io::index::is_plain_name;

/// A model of the hub, at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    /// `org/name`.
    pub model: String,
    /// A branch, a tag or a commit; `main` where none was given.
    pub revision: String,
}

impl Display for Id {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "{}@{}", self.model, self.revision)
    }
}

/// Parses `org/name[@revision]`; `None` for what cannot be one. The rules for names are the hub's
/// (<https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/utils/_validators.py>).
pub fn parse_id(input: &str) -> Option<Id> {
    let (model, revision) = input.split_once('@').unwrap_or((input, "main"));
    let (org, name) = model.split_once('/')?;
    let is_file = [".safetensors", ".gguf"].iter().any(|extension| name.ends_with(extension));
    let valid =
        is_hub_name(org) && is_hub_name(name) && model.len() <= 96 && !is_file && is_revision(revision);
    valid.then(|| Id { model: model.into(), revision: revision.into() })
}

fn is_hub_name(name: &str) -> bool {
    let edge = |c: char| c == '-' || c == '.';
    !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !(name.starts_with(edge) || name.ends_with(edge) || name.contains("--") || name.contains(".."))
}

/// It becomes part of a path (`refs/<revision>`) and of an address.
fn is_revision(revision: &str) -> bool {
    let plain =
        |part: &str| is_plain_name(part) && part.chars().all(|c| c.is_ascii_graphic() && !"?#%&".contains(c));
    revision.split('/').all(plain)
}
