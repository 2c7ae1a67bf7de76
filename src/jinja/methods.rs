//! Filters and methods whose cost minijinja does not charge, with that cost.

use std::borrow::Cow;

use minijinja::filters;
use minijinja::value::{StringInput, Value};
use minijinja::{Environment, Error, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::limit::Limit;

/// Comparisons of characters for one unit of fuel.
const COMPARISONS_PER_FUEL: u64 = 64;

/// Python's methods, and minijinja's filters without those that Jinja does not have and that cannot be bounded: `chain` nests,
/// `pprint` repeats its indentation, `debug` prints the state of the engine.
pub(super) fn add(environment: &mut Environment<'static>) {
    environment.remove_filter("chain");
    environment.remove_filter("pprint");
    environment.remove_global("debug");
    environment.add_filter("trim", trim);
    environment.set_unknown_method_callback(method);
}

fn method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (method, value.as_str()) {
        ("format", Some(text)) => check_widths(text)?,
        ("strip" | "lstrip" | "rstrip", Some(text)) => {
            charge_trim(state, text, args.first().and_then(Value::as_str))?;
        }
        _ => {}
    }
    unknown_method_callback(state, value, method, args)
}

fn trim(state: &State, text: StringInput<'_>, chars: Option<Cow<'_, str>>) -> Result<Value, Error> {
    charge_trim(state, text.as_str(), chars.as_deref())?;
    Ok(filters::trim(text, chars))
}

/// Each character of the text is compared with all that are to go.
fn charge_trim(state: &State, text: &str, chars: Option<&str>) -> Result<(), Error> {
    let comparisons = chars.map_or(0, |chars| (text.len() as u64).saturating_mul(chars.len() as u64));
    state.consume_fuel(comparisons / COMPARISONS_PER_FUEL)
}

/// Checks the widths and precisions in the fields of a format.
fn check_widths(format: &str) -> Result<(), Limit> {
    let fields = format.split('{').skip(1).filter_map(|field| field.split('}').next());
    let numbers = fields.flat_map(|field| field.split(|c: char| !c.is_ascii_digit()));
    let mut columns = 0_usize;
    for number in numbers.filter(|number| !number.is_empty()) {
        columns = columns.saturating_add(number.parse().unwrap_or(usize::MAX));
    }
    if columns > Limit::WIDTH { Err(Limit::Width) } else { Ok(()) }
}
