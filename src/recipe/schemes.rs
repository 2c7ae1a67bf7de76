//! Schemes by name, with the group size and the symmetry that a recipe gives them.

use crate::error::{Error, Result};
use crate::names::unknown;
use crate::numerics::presets::{self, PRESETS, Preset};
use crate::numerics::{Granularity, Number, Scheme};

/// Finds a preset by its name.
pub fn find_preset(name: &str) -> Result<&'static Preset> {
    presets::find(name)
        .ok_or_else(|| unknown("scheme", name, &PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>()))
}

/// Returns the scheme of a preset with another group size and symmetry.
pub fn adjust(preset: &Preset, group_size: Option<usize>, symmetric: Option<bool>) -> Result<Scheme> {
    let mut scheme = preset.scheme;
    if preset.activations.is_some() && (group_size.is_some() || symmetric == Some(false)) {
        return Err(Error::usage(
            format!(
                "{} quantizes inputs too: its scales are fixed ({scheme}), without zero points",
                preset.name
            ),
            "leave --group-size and --asymmetric out, or choose a scheme for weights alone such as w8a16",
        ));
    }
    let grouped = matches!(scheme.number, Number::Int { .. } | Number::Nf4);
    match group_size {
        Some(_) if !grouped => {
            return Err(Error::usage(
                format!("--group-size has no meaning for {scheme}, whose format fixes its groups"),
                "leave it out, or choose an integer scheme such as w4a16",
            ));
        }
        Some(0) => scheme.granularity = Granularity::Channel,
        Some(size) => scheme.granularity = Granularity::Group(size),
        None => {}
    }
    match symmetric {
        Some(false) if !matches!(scheme.number, Number::Int { .. }) => Err(Error::usage(
            format!("{scheme} has no zero points"),
            "--asymmetric goes with integer schemes such as w4a16",
        )),
        symmetric => Ok(Scheme { symmetric: symmetric.unwrap_or(scheme.symmetric), ..scheme }),
    }
}
