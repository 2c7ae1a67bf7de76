//! Codes ↔ bit streams.
