//! Q2_K to Q6_K: super-blocks of 256.
