// The common part of gemv and gemm_small: a block of four warps multiplies one strip (64 rows of W) with a range of k.
//
// For such small batches the kernel is limited by reading the weight, so everything is designed to keep loads in flight. The block's
// range of k is cut into chunks of 4 KiB of codes (128 columns of W4, 64 of W8), assigned to the warps in turn. A warp has its own
// ring of STAGES chunks and waits for no other warp before the end. x is copied with the chunks, so that a block is as small for a
// deep W as for a shallow one. Lanes read scales, zeros and x that other lanes copied, so each chunk needs one warp_barrier.
//
//     shared:  [warp 0: stage 0 | stage 1 | stage 2] … [warp 3: …]
//     stage:   [codes 4096] [scales 4·128] [zeros 4·64] [x: m rows of the chunk's columns, 16 bytes apart]
//
// The 16 bytes between rows of x put the eight rows that a B-fragment reads on different banks.
#pragma once

#include "linear.cuh"

constexpr int STRIP_WARPS = 4;
constexpr int STRIP_STAGES = 3;
constexpr int STRIP_THREADS = STRIP_WARPS * 32;
constexpr int CHUNK_BYTES = 4096;
constexpr int CHUNK_GROUPS = 4; // at most: 128 columns in groups of 32
constexpr int STAGE_SCALES = CHUNK_BYTES;
constexpr int STAGE_ZEROS = STAGE_SCALES + CHUNK_GROUPS * STRIP * 2;
constexpr int STAGE_X = STAGE_ZEROS + CHUNK_GROUPS * STRIP;
constexpr int STRIP_ROWS = 8;                                                        // of x, at most
constexpr int STRIP_FLAG = STRIP_WARPS * STRIP_ROWS * STRIP * int(sizeof(float)); // after the sums of all warps

// A strip multiplied with at most ROWS rows of x.
template <class T, int BITS, bool ZEROS, int ROWS> struct Strip {
  static constexpr int TILES = CHUNK_BYTES / TILE_BYTES<BITS>; // of a chunk: 8 or 4
  static constexpr int COLUMNS = TILES * TILE;
  static constexpr int X_ROW = 2 * COLUMNS + 16;

  const Linear& p;
  unsigned char* shared;
  int warp, lane;
  int strip, first_chunk, chunks; // of this block's range
  Groups groups;
  Keep once;
  int group_tiles_log2, chunk_groups; // tiles of a group in a chunk, groups of a chunk

  __device__ Strip(const Linear& linear, unsigned char* memory) : p(linear), shared(memory), groups(linear.k, linear.group), once(keep(true)) {
    warp = threadIdx.x / 32;
    lane = threadIdx.x % 32;
    strip = blockIdx.x;
    int start = blockIdx.y * p.k_per_block;
    first_chunk = start / COLUMNS;
    chunks = min_of(p.k_per_block, round_up(p.k, K_MULTIPLE) - start) / COLUMNS;
    group_tiles_log2 = min_of(groups.shift - 4, TILES == 8 ? 3 : 2);
    chunk_groups = TILES >> group_tiles_log2;
  }

  __device__ unsigned char* stage(int turn) const {
    return shared + (warp * STRIP_STAGES + turn % STRIP_STAGES) * (STAGE_X + p.m * X_ROW);
  }

  // Returns row `row` of x in a stage, as pairs.
  static __device__ const uint32_t* x_row(const unsigned char* stage, int row) {
    return reinterpret_cast<const uint32_t*>(stage + STAGE_X + row * X_ROW);
  }

  // Copies columns [start, start + COLUMNS) of x, if `on`; columns that do not exist become 0.
  __device__ void copy_x(unsigned char* stage, int start, bool on) const {
    constexpr int VECTORS = COLUMNS / 8, AT_ONCE = 32 / VECTORS; // of a row; rows
    int row = lane / VECTORS, column = lane % VECTORS * 8;
    const T* from = static_cast<const T*>(p.x) + size_t(row) * p.x_stride + start + column;
    int bytes = bytes_left<T>(start + column, p.k);
#pragma unroll
    for (int i = 0; i < ROWS; i += AT_ONCE)
      cp_async_16(stage + STAGE_X + (row + i) * X_ROW + 2 * column, from + size_t(i) * p.x_stride, bytes, on && row + i < p.m);
  }

  // Starts the copy of chunk number `turn` of this warp; without a further chunk, copies nothing.
  __device__ void copy_chunk(int turn) const {
    int chunk = turn * STRIP_WARPS + warp;
    bool on = chunk < chunks;
    chunk += first_chunk;
    unsigned char* to = stage(turn);
    size_t depth = round_up(p.k, K_MULTIPLE);
    const uint8_t* codes = p.codes + (strip * depth / COLUMNS + chunk) * CHUNK_BYTES + lane * 16;
#pragma unroll
    for (int i = 0; i < CHUNK_BYTES; i += 512) cp_async_16(to + lane * 16 + i, codes + i, once, on);
    copy_x(to, chunk * COLUMNS, on);
    size_t entry = (size_t(strip) * groups.count + (chunk * COLUMNS >> groups.shift)) * STRIP;
    cp_async_16(to + STAGE_SCALES + lane * 16, static_cast<const T*>(p.scales) + entry + lane * 8, 16, on && lane < 8 * chunk_groups);
    if (ZEROS) cp_async_16(to + STAGE_ZEROS + lane * 16, p.zeros + entry + lane * 16, 16, on && lane < 4 * chunk_groups);
    cp_async_commit();
  }

  // Calls body(stage) for each of this warp's chunks.
  template <class Body> __device__ void for_each_chunk(Body body) const {
#pragma unroll
    for (int turn = 0; turn < STRIP_STAGES - 1; turn++) copy_chunk(turn);
#pragma unroll 1
    for (int turn = 0; turn * STRIP_WARPS + warp < chunks; turn++) {
      cp_async_wait<STRIP_STAGES - 2>();
      warp_barrier(); // all lanes' copies have arrived, and all lanes are done with the stage that is filled next
      copy_chunk(turn + STRIP_STAGES - 1);
      body(stage(turn));
    }
  }

  // The sums of one group before scaling: the products of the codes with B, in C-fragments of sixteen rows each, and
  // those of ones with B.
  struct Sums {
    float product[4][4] = {}, ones[4] = {};
  };

  // Adds the products of a tile of the stage with a B-fragment. Ones times B is Σ B, which is needed to subtract zero
  // points.
  __device__ void multiply(Sums& sums, const unsigned char* stage, int tile, uint32_t b0, uint32_t b1) const {
    uint32_t codes[TILE_WORDS<BITS>];
    words(codes, stage, tile);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint32_t w[4];
      Unpack<T, BITS>::template pairs<false>(w, codes + j * WORDS<BITS>, nullptr);
      const uint32_t a[4] = {w[0], w[2], w[1], w[3]};
      mma<T>(sums.product[j], a, b0, b1);
    }
    if (ZEROS) {
      constexpr uint32_t one = Constants<T>::ONE;
      const uint32_t ones[4] = {one, one, one, one};
      mma<T>(sums.ones, ones, b0, b1);
    }
  }

  // Returns the sum of row n = 8i + lane/4 and column 2(lane%4) + e of B, with its scale and zero point.
  static __device__ float scaled(const Sums& sums, int i, int e, const Bytes16& scales, const Bytes8& zeros) {
    float sum = sums.product[i / 2][2 * (i % 2) + e];
    if (ZEROS) sum -= float(centred<BITS>(zeros, i)) * sums.ones[e];
    return sum * to_float(element<T>(scales, i));
  }

  // Loads a lane's words of a tile of the stage.
  __device__ void words(uint32_t (&to)[TILE_WORDS<BITS>], const unsigned char* stage, int tile) const {
#pragma unroll
    for (int v = 0; v < TILE_WORDS<BITS> / 4; v++) {
      Bytes16 vector = *reinterpret_cast<const Bytes16*>(stage + tile * TILE_BYTES<BITS> + v * 512 + lane * 16);
#pragma unroll
      for (int j = 0; j < 4; j++) to[4 * v + j] = vector.word[j];
    }
  }

  // Returns scales and zeros of rows n = 8i + lane/4, i = 0–7, of a group of the stage.
  __device__ Bytes16 scales(const unsigned char* stage, int group) const {
    return *reinterpret_cast<const Bytes16*>(stage + STAGE_SCALES + group * 128 + lane / 4 * 16);
  }
  __device__ Bytes8 zeros(const unsigned char* stage, int group) const {
    return *reinterpret_cast<const Bytes8*>(stage + STAGE_ZEROS + group * 64 + lane / 4 * 8);
  }

  // Returns the memory for this warp's sums, [m][64]; it overlaps stages, which all warps are done with.
  __device__ float* sums() const {
    cp_async_wait<0>();
    block_barrier();
    return reinterpret_cast<float*>(shared) + warp * p.m * STRIP;
  }

  __device__ void store(int row, int column, float value) const {
    if (column >= p.n) return;
    if (p.bias) value += to_float(static_cast<const T*>(p.bias)[column]);
    static_cast<T*>(p.y)[size_t(row) * p.n + column] = from_float<T>(value);
  }

  // Adds the sums of the warps in their order, and the splits in theirs; writes y.
  __device__ void finish() const {
    block_barrier();
    const float* sums = reinterpret_cast<const float*>(shared);
    int count = p.m * STRIP, splits = gridDim.y, width = gridDim.x * STRIP;
    for (int i = threadIdx.x; i < count; i += STRIP_THREADS) {
      float sum = 0;
      for (int w = 0; w < STRIP_WARPS; w++) sum += sums[w * count + i];
      int row = i / STRIP, column = strip * STRIP + i % STRIP;
      if (splits == 1) store(row, column, sum);
      else p.scratch[(size_t(blockIdx.y) * p.m + row) * width + column] = sum;
    }
    if (splits == 1 || !draws_last(p.tickets + strip, splits, reinterpret_cast<uint32_t*>(shared + STRIP_FLAG))) return;
    for (int i = threadIdx.x; i < count; i += STRIP_THREADS) {
      int row = i / STRIP, column = strip * STRIP + i % STRIP;
      float sum = 0;
      for (int s = 0; s < splits; s++) sum += load_l2(p.scratch + (size_t(s) * p.m + row) * width + column);
      store(row, column, sum);
    }
  }
};
