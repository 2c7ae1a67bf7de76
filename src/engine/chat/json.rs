//! transformers' `tojson` filter: Python's `json.dumps`, which neither escapes HTML nor sorts keys.
//!
//! Limit: Python formats the exponents of floats above 1e16 or below 1e-4 differently.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind, State};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::jinja::Limit;

/// Bytes written for one unit of fuel, beyond the price of any text.
const BYTES_PER_FUEL: u64 = 16;

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let style = Style::from_options(&options)?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sort_keys {
        json.sort_all_objects();
    }
    let mut text = BoundedText(Vec::new());
    json.serialize(&mut Serializer::with_formatter(&mut text, style)).map_err(|error| {
        match error.is_io() {
            true => Limit::Text.into(),
            false => failed(error),
        }
    })?;
    state.consume_fuel(text.0.len() as u64 / BYTES_PER_FUEL)?;
    String::from_utf8(text.0).map(Value::from).map_err(failed)
}

/// Bytes in memory, up to [`Limit::TEXT`].
struct BoundedText(Vec<u8>);

impl Write for BoundedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > Limit::TEXT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {error}"))
}

/// The separators, indentation and escapes of `json.dumps`.
struct Style {
    item_separator: String,
    key_separator: String,
    /// Spaces per level; `None` means no line breaks.
    indent: Option<usize>,
    ensure_ascii: bool,
    depth: usize,
    /// True if the innermost container has an item already.
    filled: bool,
}

impl Style {
    fn from_options(options: &Kwargs) -> Result<Style, Error> {
        let indent = options.get::<Option<usize>>("indent")?;
        if indent.is_some_and(|indent| indent > Limit::WIDTH) {
            return Err(Limit::Width.into());
        }
        let (item_separator, key_separator) =
            match options.get::<Option<Vec<String>>>("separators")?.as_deref() {
                Some([item, key]) => (item.clone(), key.clone()),
                Some(_) => return Err(failed("expected two separators")),
                None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
            };
        let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
        Ok(Style { item_separator, key_separator, indent, ensure_ascii, depth: 0, filled: false })
    }

    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.new_line(writer)?;
        }
        self.filled = true;
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item_separator.as_bytes())?;
        }
        self.filled = true;
        self.new_line(writer)
    }

    fn new_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(indent) => {
                writer.write_all(b"\n")?;
                writer.write_all(" ".repeat(indent * self.depth).as_bytes())
            }
            None => Ok(()),
        }
    }
}

impl Formatter for Style {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key_separator.as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if !self.ensure_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        fragment.encode_utf16().try_for_each(|unit| match u8::try_from(unit).ok().filter(u8::is_ascii) {
            Some(byte) => writer.write_all(&[byte]),
            None => write!(writer, "\\u{unit:04x}"),
        })
    }
}
