//! On-disk super-blocks as structs of byte arrays, read and written without `unsafe`.

/// The bytes of a super-block as a file has them.
pub(crate) trait Layout {
    /// Bytes of a super-block.
    const BYTES: usize;

    /// Reads the first [`Self::BYTES`] bytes.
    fn read(bytes: &[u8]) -> Self;

    /// Writes [`Self::BYTES`] bytes.
    fn write(&self, out: &mut [u8]);
}

/// Declares a super-block's fields in file order, asserts its size, and implements [`Layout`].
macro_rules! layout {
    ($(#[$doc:meta])* $name:ident: $bytes:literal { $($field:ident: $len:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        pub(crate) struct $name { $($field: [u8; $len]),+ }

        const _: () = assert!(size_of::<$name>() == $bytes);

        impl $crate::numerics::ggml::k_quants::layout::Layout for $name {
            const BYTES: usize = $bytes;

            #[inline(always)]
            fn read(mut bytes: &[u8]) -> Self {
                $name { $($field: $crate::numerics::ggml::k_quants::layout::take(&mut bytes)),+ }
            }

            #[inline(always)]
            fn write(&self, out: &mut [u8]) {
                let mut at = 0;
                $(
                    out[at..][..$len].copy_from_slice(&self.$field);
                    at += $len;
                )+
                debug_assert_eq!(at, $bytes);
            }
        }
    };
}
pub(super) use layout;

/// Takes the next field.
#[inline(always)]
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (field, rest) = bytes.split_first_chunk().expect("rows are cut into whole blocks");
    *bytes = rest;
    *field
}
