//! The size of a value, and the checks that every value of a template passes as it is made or loaded.

use std::collections::HashMap;
use std::sync::Arc;

use minijinja::value::{DynObject, ObjectRepr, Value};
use minijinja::{Environment, Error, State};

use super::limit::Limit;
use super::program::{CHECK, CHECK_STORED, FINISH};

/// Parts visited for one unit of fuel.
const PARTS_PER_FUEL: u64 = 4;
/// The same for the lists of the context, which are measured only once: most operations on them visit few parts.
const KNOWN_PARTS_PER_FUEL: u64 = 64;
/// Bytes measured for one unit of fuel, as the engine charges for bytes that it makes.
const TEXT_PER_FUEL: u64 = 64;

/// A value's size, with all that it contains, as often as it contains it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    pub(super) parts: u64,
    pub(super) text: u64,
}

impl Size {
    /// Measures a value.
    ///
    /// # Errors
    /// A value that is too large or too deep, or has a part that is not finished.
    pub(super) fn of(value: &Value) -> Result<Size, Limit> {
        let mut size = Size::default();
        size.add(value, 0)?;
        Ok(size)
    }

    fn add(&mut self, value: &Value, depth: usize) -> Result<(), Limit> {
        self.parts += 1;
        self.text += value.as_bytes().map_or(0, |text| text.len() as u64);
        if depth > Limit::DEPTH {
            return Err(Limit::Depth);
        }
        if self.parts > Limit::PARTS {
            return Err(Limit::Parts);
        }
        if self.text > Limit::TEXT {
            return Err(Limit::Text);
        }
        let Some(object) = value.as_object() else { return Ok(()) };
        if depth > 0 && (is_namespace(object) || object.repr() == ObjectRepr::Iterable) {
            return Err(Limit::Lazy);
        }
        self.add_parts(object, depth)
    }

    fn add_parts(&mut self, object: &DynObject, depth: usize) -> Result<(), Limit> {
        match object.repr() {
            ObjectRepr::Map => {
                for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                    self.add(&key, depth + 1)?;
                    self.add(&value, depth + 1)?;
                }
            }
            ObjectRepr::Seq | ObjectRepr::Iterable => {
                for value in object.try_iter().into_iter().flatten() {
                    match value.as_object().filter(|_| is_group(object)) {
                        Some(list) if list.repr() == ObjectRepr::Iterable => {
                            self.add_parts(list, depth + 1)?
                        }
                        _ => self.add(&value, depth + 1)?,
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Recognizes a group that `groupby` makes. It holds a finished list, which it shows as one that is not.
fn is_group(object: &DynObject) -> bool {
    object.type_name().ends_with("::GroupTuple")
}

/// Recognizes what `namespace()` makes: the only values that change, so the only ones that could contain themselves.
fn is_namespace(object: &DynObject) -> bool {
    object.type_name().ends_with("::Namespace")
}

/// The lists of the context, by address: they are as large as when the rendering began, so each is measured once.
#[derive(Default)]
pub(super) struct KnownLists(HashMap<usize, Size>);

impl KnownLists {
    /// Measures a context. Returns its lists, and its size; one beyond the limits counts as the largest within them.
    pub(super) fn of(context: &Value) -> (KnownLists, Size) {
        let mut lists = HashMap::new();
        let object = context.as_object();
        for (_, value) in object.and_then(DynObject::try_iter_pairs).into_iter().flatten() {
            if let (Some(address), Ok(size)) = (address(&value), Size::of(&value)) {
                lists.insert(address, size);
            }
        }
        let most = Size { parts: Limit::PARTS, text: Limit::TEXT };
        (KnownLists(lists), Size::of(context).unwrap_or(most))
    }

    /// The fuel of an operation on a value.
    fn fuel(&self, value: &Value) -> Result<u64, Limit> {
        let known = address(value).and_then(|address| self.0.get(&address));
        Ok(match known {
            Some(size) => size.parts / KNOWN_PARTS_PER_FUEL,
            None => {
                let size = Size::of(value)?;
                size.parts / PARTS_PER_FUEL + size.text / TEXT_PER_FUEL
            }
        })
    }
}

fn address(value: &Value) -> Option<usize> {
    value.downcast_object_ref::<Vec<Value>>().map(|list| std::ptr::from_ref(list).addr())
}

/// The check of a value that was loaded or made. Takes the fuel that the next operation on the value costs.
fn check(known: &KnownLists, state: &State, value: &Value) -> Result<(), Error> {
    state.consume_fuel(known.fuel(value)?)
}

/// Finishes a list that is computed while it is read: such lists may nest without bound.
fn finished(value: Value) -> Result<Value, Error> {
    if value.as_object().is_none_or(|object| object.repr() != ObjectRepr::Iterable) {
        return Ok(value);
    }
    let mut items = Vec::new();
    for item in value.try_iter()?.checked() {
        if items.len() as u64 >= Limit::PARTS {
            return Err(Limit::Parts.into());
        }
        items.push(item?);
    }
    Ok(Value::from_object(items))
}

/// The check of a value that a namespace will hold.
fn check_stored(value: Value) -> Result<Value, Error> {
    match value.as_object() {
        Some(object) if is_namespace(object) => Err(Limit::Lazy.into()),
        _ => Ok(value),
    }
}

/// Adds the checks for a context to its environment.
pub(super) fn add_checks(environment: &mut Environment, known: KnownLists) {
    let known = Arc::new(known);
    let shared = Arc::clone(&known);
    environment
        .add_test(CHECK, move |state: &State, value: &Value| check(&shared, state, value).map(|()| true));
    environment.add_filter(FINISH, move |state: &State, value: Value| {
        let value = finished(value)?;
        check(&known, state, &value).map(|()| value)
    });
    environment.add_filter(CHECK_STORED, check_stored);
}
