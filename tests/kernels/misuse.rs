//! Faults that the emulator must report: a checker is trusted only after it has been seen to fail. The kernels are in
//! kernels/emulator/faults.cu.

use llmc::cuda::Device;

use crate::emulator::{Emulator, Grid};

/// Returns the 256 bytes that 64 threads have written, or the emulator's error; `None` without a C++ compiler.
fn outcome(kernel: &str, seed: u64) -> Option<Result<Vec<u8>, String>> {
    let device = Emulator::open(seed)?;
    Some(run(&device, kernel, seed))
}

fn run(device: &Emulator, kernel: &str, seed: u64) -> Result<Vec<u8>, String> {
    let out = device.allocate(64 * 4).unwrap();
    let grid = Grid { grid: [1, 1, 1], block: [64, 1, 1], shared_bytes: 1024, seed };
    device.run(kernel, &grid, &[out.address()])?;
    let mut bytes = vec![0; 64 * 4];
    device.download(&out, &mut bytes).unwrap();
    Ok(bytes)
}

#[track_caller]
fn fails(kernel: &str, with: &str) {
    let Some(outcome) = outcome(kernel, 0) else { return };
    let message = outcome.unwrap_err();
    assert!(message.contains(with), "{kernel}: {message}");
}

#[test]
fn a_barrier_that_some_skip_is_a_deadlock() {
    fails(
        "fault_skipped_barrier",
        "nobody can go on: block (0, 0, 0), thread 1 waits at the block's barrier",
    );
}

#[test]
fn lanes_at_different_collectives_are_told_apart() {
    fails("fault_mixed_collectives", "the lanes of a warp are at different collectives");
}

#[test]
fn shared_memory_ends_where_the_launch_says() {
    fails("fault_copy_behind_shared", "cp_async_16: 16 bytes at 1024 of 1024 bytes");
    fails("fault_write_behind_shared", "wrote behind the 1024 bytes of shared memory");
}

#[test]
fn global_memory_ends_where_it_was_allocated() {
    fails("fault_copy_behind_global", "thread 5: cp_async_16: reads 4 bytes outside of global memory");
}

#[test]
fn a_copy_that_is_not_waited_for_is_not_there() {
    let Some(out) = outcome("fault_early_read", 0) else { return };
    assert_eq!(out.unwrap(), vec![0xff; 256]);
}

#[test]
fn a_missing_barrier_shows_under_another_order() {
    let (Some(forward), Some(backward)) =
        (outcome("fault_missing_barrier", 0), outcome("fault_missing_barrier", 1))
    else {
        return;
    };
    assert_ne!(forward.unwrap(), backward.unwrap());
}

#[test]
fn an_unknown_kernel_is_an_error() {
    fails("no_such_kernel", "there is no kernel no_such_kernel");
}
