//! Hub ids → local folders through the standard cache.
