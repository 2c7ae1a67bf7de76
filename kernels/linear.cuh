// What the kernels of y = x·Wᵀ are launched with, and how splits of K become one sum.
#pragma once

#include "layout.cuh"

// The parameter of gemv, gemm_small and gemm; README.md says what each field must hold. T is erased so that the launcher has one struct.
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

// Bytes of x's columns from `column` on that exist, at most 16: what cp_async_16 may read.
template <class T> __device__ inline int bytes_left(int column, int k) {
  int bytes = (k - column) * int(sizeof(T));
  return bytes < 0 ? 0 : min_of(bytes, 16);
}

// Whether this block is the last of `blocks` to come here with this ticket; all threads get the same answer. What they wrote before is
// then visible to all of the last block. The ticket is left at zero for the next launch. `flag` is a word of shared memory.
__device__ inline bool draws_last(uint32_t* ticket, uint32_t blocks, uint32_t* flag) {
  block_barrier();
  if (threadIdx.x == 0) {
    *flag = fetch_add(ticket) == blocks - 1;
    if (*flag) *ticket = 0;
  }
  block_barrier();
  return *flag != 0;
}
