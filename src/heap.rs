//! The heap of a process that asks for a few megabytes thousands of times a second: the activations of each layer.

/// Lets blocks of this size and less stay with the process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 32 << 20;

/// Makes the C library keep freed memory. By default it gives each large block back to the system, which clears its pages and maps
/// them anew for the next one: a fifth of the time of a calibrated run.
pub(crate) fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: both options are numbers of bytes, within the bounds of mallopt(3); one that is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 * KEPT);
    }
}
