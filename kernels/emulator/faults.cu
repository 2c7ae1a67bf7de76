// Kernels with one deliberate fault each: tests/kernels/misuse.rs shows that the emulator catches it. Never built by
// nvcc.

#include "../common.cuh"

extern "C" __global__ void fault_skipped_barrier(uint32_t* out) {
  if (threadIdx.x == 0) return;
  block_barrier();
  out[threadIdx.x] = 0;
}
LLMC_EXPORT(fault_skipped_barrier)

extern "C" __global__ void fault_mixed_collectives(uint32_t* out) {
  if (threadIdx.x == 7) warp_barrier();
  else out[threadIdx.x] = uint32_t(shuffle_xor(1.0f, 1));
}
LLMC_EXPORT(fault_mixed_collectives)

extern "C" __global__ void fault_copy_behind_shared(const uint32_t* out) {
  LLMC_SHARED(shared);
  cp_async_16(shared + 1024, out);
}
LLMC_EXPORT(fault_copy_behind_shared)

extern "C" __global__ void fault_copy_behind_global(const uint32_t* out) {
  LLMC_SHARED(shared);
  cp_async_16(shared, out + 64, threadIdx.x == 5 ? 4 : 0); // nothing is read if nothing is copied
}
LLMC_EXPORT(fault_copy_behind_global)

extern "C" __global__ void fault_write_behind_shared(uint32_t*) {
  LLMC_SHARED(shared);
  shared[1024] = 0;
}
LLMC_EXPORT(fault_write_behind_shared)

extern "C" __global__ void fault_early_read(uint32_t* out) {
  LLMC_SHARED(shared);
  uint32_t* words = reinterpret_cast<uint32_t*>(shared) + 4 * threadIdx.x;
  words[0] = 1;
  cp_async_16(words, out, 0); // zeros, after the wait
  cp_async_commit();
  out[threadIdx.x] = words[0];
  cp_async_wait<0>();
}
LLMC_EXPORT(fault_early_read)

extern "C" __global__ void fault_missing_barrier(uint32_t* out) {
  LLMC_SHARED(shared);
  uint32_t* words = reinterpret_cast<uint32_t*>(shared);
  words[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = words[63 - threadIdx.x];
}
LLMC_EXPORT(fault_missing_barrier)
