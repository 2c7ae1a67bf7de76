// The launch parameter of the kernels of y = x·Wᵀ, and the ticket of split-K.
#pragma once

#include "layout.cuh"

// The parameter of gemv, gemm_small and gemm; README.md describes each field. T is erased so that the launcher has one
// struct.
struct Linear {
  void* y;
  const void* x;
  const uint8_t* codes;
  const void* scales;
  const uint8_t* zeros;
  const void* bias;
  float* scratch;
  uint32_t* tickets;
  int32_t m, n, k, x_stride, group, k_per_block;
};

// Returns the existing bytes of x's columns from `column` on, at most 16: the bytes that cp_async_16 may read.
template <class T> __device__ inline int bytes_left(int column, int k) {
  int bytes = (k - column) * int(sizeof(T));
  return bytes < 0 ? 0 : min_of(bytes, 16);
}

// Returns true if this block is the last of `blocks` to arrive with this ticket; all threads get the same answer. The
// last block sees everything that the others wrote before. The ticket is zero again for the next launch. `flag` is a
// word of shared memory.
__device__ inline bool draws_last(uint32_t* ticket, uint32_t blocks, uint32_t* flag) {
  block_barrier();
  if (threadIdx.x == 0) {
    *flag = fetch_add(ticket) == blocks - 1;
    if (*flag) *ticket = 0;
  }
  block_barrier();
  return *flag != 0;
}
