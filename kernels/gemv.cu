// y = W·x for one row x: W4 and W8, any group.
//
// The tensor cores compute the sums even here: converting codes to floats one by one would cost more instructions than an H100 has
// time for while 16 bytes arrive. The weight is the A operand (16 rows × 16 columns), x is the B operand; a product with a vector
// uses only one of its eight columns. The other columns are used as follows: a chunk spans up to four groups, and column g of B
// holds x for the columns of group g and zero elsewhere,
//
//            column of B:  0   1   2   3   4 … 7                 C:  one sum per (row, group), in fp32
//     k in group 0:        x   0   0   0   0   0
//     k in group 1:        0   x   0   0   0   0
//     …
//
// so that sums need not be flushed after each group: after a chunk, each sum is multiplied by its scale, and code·scale is never
// computed. Zero points: Σ (q − z)·x = Σ q·x − z·Σ x, and Σ x of each group is the product of a matrix of ones with the same B.

#include "strip.cuh"

template <class T, int BITS, bool ZEROS> __device__ void gemv(const Linear& p) {
  LLMC_SHARED(shared);
  using S = Strip<T, BITS, ZEROS, 1>;
  S strip(p, shared);
  const int lane = strip.lane, quad = lane % 4;
  float total[8] = {}; // of rows n = 8i + lane/4

  strip.for_each_chunk([&](const unsigned char* stage) {
    const uint32_t* x = S::x_row(stage, 0) + quad;
    typename S::Sums sums;
#pragma unroll
    for (int tile = 0; tile < S::TILES; tile++) {
      bool mine = lane / 4 == tile >> strip.group_tiles_log2; // this lane's column of B
      uint32_t b0 = mine ? x[tile * 8] : 0, b1 = mine ? x[tile * 8 + 4] : 0;
      strip.multiply(sums, stage, tile, b0, b1);
    }
    // C gives this lane columns 2·quad and 2·quad + 1, which are groups.
#pragma unroll
    for (int e = 0; e < 2; e++) {
      int group = 2 * quad + e;
      if (group >= strip.chunk_groups) continue;
      Bytes16 scales = strip.scales(stage, group);
      Bytes8 zeros = {};
      if (ZEROS) zeros = strip.zeros(stage, group);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        total[i] += S::scaled(sums, i, e, scales, zeros);
      }
    }
  });

  float* left = strip.sums();
#pragma unroll
  for (int i = 0; i < 8; i++) {
    float sum = total[i] + shuffle_xor(total[i], 1);
    sum += shuffle_xor(sum, 2);
    if (quad == 0) left[8 * i + lane / 4] = sum;
  }
  strip.finish();
}

#define DEFINE(name, T, BITS, ZEROS)                                                          \
  extern "C" __global__ void __launch_bounds__(STRIP_THREADS, 3) name(Linear p) { gemv<T, BITS, ZEROS>(p); } \
  LLMC_EXPORT(name)
LLMC_WEIGHT_KERNELS(DEFINE, gemv)
