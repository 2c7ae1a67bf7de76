//! The one loop that moves tensors from a checkpoint through a method to a format.
