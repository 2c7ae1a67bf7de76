// y = x·Wᵀ for 1–8 rows of x: W4 and W8, any group.
//
// The product has swapped operands, yᵀ = W·xᵀ: sixteen rows of W are the A operand of m16n8k16, and the batch fills the
// eight columns of B, so the tensor cores do not compute the padding of a batch of sixteen. B-fragments are read
// directly from the rows of x in shared memory. Each group's sums are computed in fp32 from the codes and multiplied by
// their scale once. Zero points as in gemv: a matrix of ones gives Σ x.

#include "strip.cuh"

template <class T, int BITS, bool ZEROS> __device__ void gemm_small(const Linear& p) {
  LLMC_SHARED(shared);
  using S = Strip<T, BITS, ZEROS, STRIP_ROWS>;
  S strip(p, shared);
  const int lane = strip.lane, quad = lane % 4;
  const int last_tile = (1 << strip.group_tiles_log2) - 1; // of a group
  const bool row_exists = lane / 4 < p.m; // this lane's column of B is a row of x
  float total[4][4] = {}; // [j][2h + e] of row n = 16j + 8h + lane/4 of W, row 2·quad + e of x

  strip.for_each_chunk([&](const unsigned char* stage) {
    const uint32_t* x = S::x_row(stage, row_exists ? lane / 4 : 0) + quad;
    typename S::Sums sums;
#pragma unroll
    for (int tile = 0; tile < S::TILES; tile++) {
      uint32_t b0 = row_exists ? x[tile * 8] : 0, b1 = row_exists ? x[tile * 8 + 4] : 0;
      strip.multiply(sums, stage, tile, b0, b1);
      if (tile % 2 == 0 || (tile & last_tile) != last_tile) continue; // groups end after an odd tile
      int group = tile >> strip.group_tiles_log2;
      Bytes16 scales = strip.scales(stage, group);
      Bytes8 zeros = {};
      if (ZEROS) zeros = strip.zeros(stage, group);
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          total[i / 2][2 * (i % 2) + e] += S::scaled(sums, i, e, scales, zeros);
        }
      sums = {};
    }
  });

  float* left = strip.sums();
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int e = 0; e < 2; e++)
      if (2 * quad + e < p.m) left[(2 * quad + e) * STRIP + 8 * i + lane / 4] = total[i / 2][2 * (i % 2) + e];
  strip.finish();
}

#define DEFINE(name, T, BITS, ZEROS)                                                                            \
  extern "C" __global__ void __launch_bounds__(STRIP_THREADS, 3) name(Linear p) { gemm_small<T, BITS, ZEROS>(p); } \
  LLMC_EXPORT(name)
LLMC_WEIGHT_KERNELS(DEFINE, gemm_small)
