//! The safetensors header: parsing and validation.
