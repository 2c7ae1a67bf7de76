//! The unit of a panel: a line of codes, and a number per row.

use crate::backend::cpu::packed::PANEL;
pub(super) use crate::backend::cpu::pages::Line;

/// A number per row of a panel.
pub(crate) type PerRow<T> = [T; PANEL];
