// Converts packed codes to the weight [n][k] in f16 or bf16, each value (code − zero)·scale rounded once.
//
// A block takes 128 columns of a strip; each of its eight warps takes one tile. A lane's values are scattered over rows
// (see README.md), so they go through shared memory and are written as whole rows of 256 bytes.

#include "layout.cuh"

struct Dequantize {
  void* w;
  const uint8_t* codes;
  const void* scales;
  const uint8_t* zeros;
  int32_t n, k, group, reserved;
};

constexpr int ROW_BYTES = 2 * K_MULTIPLE + 16; // of shared memory: eight rows are on different banks

// Writes this lane's values of its warp's tile.
template <class T, int BITS, bool ZEROS> __device__ void unpack_tile(const Dequantize& p, unsigned char* shared) {
  using Codes = Unpack<T, BITS>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const size_t strip = blockIdx.y, tile = blockIdx.x * 8 + warp;
  const uint8_t* codes = p.codes + (strip * gridDim.x * 8 + tile) * TILE_BYTES<BITS> + lane * 16;
  uint32_t words[TILE_WORDS<BITS>];
#pragma unroll
  for (int v = 0; v < TILE_WORDS<BITS> / 4; v++) {
    Bytes16 vector = *reinterpret_cast<const Bytes16*>(codes + v * 512);
#pragma unroll
    for (int j = 0; j < 4; j++) words[4 * v + j] = vector.word[j];
  }
  const Groups groups(p.k, p.group);
  size_t entry = (strip * groups.count + (tile * TILE >> groups.shift)) * STRIP + lane / 4 * 8;
  Bytes16 scales = *reinterpret_cast<const Bytes16*>(static_cast<const T*>(p.scales) + entry);
  Bytes8 zeros = {};
  if (ZEROS) zeros = *reinterpret_cast<const Bytes8*>(p.zeros + entry);
#pragma unroll
  for (int j = 0; j < 4; j++) {
    uint32_t pair[4];
    const typename Codes::Zero zero[2] = {Codes::zero(zeros.word[j / 2], 2 * j % 4), Codes::zero(zeros.word[j / 2], 2 * j % 4 + 1)};
    Codes::template pairs<ZEROS>(pair, words + j * WORDS<BITS>, zero);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int eight = 2 * j + i / 2;
      int row = 8 * eight + lane / 4, column = warp * TILE + 2 * (lane % 4) + 8 * (i % 2);
      *reinterpret_cast<uint32_t*>(shared + row * ROW_BYTES + 2 * column) = mul2<T>(pair[i], twice(scales, eight));
    }
  }
}

template <class T, int BITS, bool ZEROS> __device__ void dequantize(const Dequantize& p) {
  LLMC_SHARED(shared);
  unpack_tile<T, BITS, ZEROS>(p, shared);
  block_barrier();
  const int first_row = blockIdx.y * STRIP, first_column = blockIdx.x * K_MULTIPLE;
  const bool aligned = p.k % 8 == 0; // rows of w begin at multiples of 16 bytes
  for (int i = threadIdx.x; i < STRIP * 16; i += 256) {
    int row = i / 16, column = i % 16 * 8;
    if (first_row + row >= p.n) return;
    const unsigned char* from = shared + row * ROW_BYTES + 2 * column;
    T* to = static_cast<T*>(p.w) + size_t(first_row + row) * p.k + first_column + column;
    copy_out(to, from, p.k - first_column - column, aligned);
  }
}

#define DEFINE(name, T, BITS, ZEROS)                                                                                       \
  extern "C" __global__ void __launch_bounds__(256) name(Dequantize p) { dequantize<T, BITS, ZEROS>(p); }                  \
  LLMC_EXPORT(name)
LLMC_WEIGHT_KERNELS(DEFINE, dequantize)
