//! Arguments whose known values shells complete, while others are taken too: aliases, lists, paths.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command, Error};

use crate::export::FORMATS;
use crate::numerics::presets::PRESETS;
use crate::recipe::SHIPPED;
use crate::registry::{METHODS, pruning, shaping};

/// A parser of any text that tells shells the known values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suggested {
    values: fn() -> Vec<&'static str>,
}

/// Schemes.
pub(crate) fn schemes() -> Suggested {
    Suggested { values: || PRESETS.iter().map(|preset| preset.name).collect() }
}

/// Methods.
pub(crate) fn methods() -> Suggested {
    Suggested { values: || METHODS.iter().map(|def| def.name).collect() }
}

/// Methods that prune.
pub(crate) fn pruning_methods() -> Suggested {
    Suggested { values: || [shaping(), pruning()].concat() }
}

/// Formats.
pub(crate) fn formats() -> Suggested {
    Suggested { values: || FORMATS.iter().map(|format| format.name()).collect() }
}

/// Recipes that ship.
pub(crate) fn recipes() -> Suggested {
    Suggested { values: || SHIPPED.iter().map(|(name, _)| *name).collect() }
}

impl TypedValueParser for Suggested {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.values)().into_iter().map(PossibleValue::new)))
    }
}
