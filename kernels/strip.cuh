// The frame of gemv and gemm_small: a block of four warps multiplies one strip (64 rows of W) with a range of k.
//
// Batches this small are a copy of the weight, so everything serves keeping loads in flight. The block's range of k is cut into
// chunks of 4 KiB of codes (128 columns of W4, 64 of W8), dealt to the warps in turn. A warp has its own ring of STAGES chunks
// and waits for no other warp: of codes a lane reads only the vectors it copied itself; scales and zeros are read across
// lanes, hence the one warp_barrier per chunk. x, a few rows, is copied whole once.
//
//     shared:  [warp 0: stage 0 | stage 1 | stage 2] … [warp 3: …] [x: m rows of k_per_block, 16 bytes apart]
//     stage:   [codes 4096] [scales 4·128] [zeros 4·64]
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
constexpr int STAGE_BYTES = STAGE_ZEROS + CHUNK_GROUPS * STRIP;
constexpr int STRIP_X = STRIP_WARPS * STRIP_STAGES * STAGE_BYTES;

template <class T, int BITS, bool ZEROS> struct Strip {
  static constexpr int TILES = CHUNK_BYTES / TILE_BYTES<BITS>; // of a chunk: 8 or 4
  static constexpr int COLUMNS = TILES * TILE;

  const Linear& p;
  unsigned char* shared;
  unsigned char* ring; // this warp's
  int warp, lane;
  int strip, first_chunk, chunks; // of this block's range
  Groups groups;
  Keep once;
  int group_tiles_log2, chunk_groups; // tiles of a group in a chunk, groups of a chunk

  __device__ Strip(const Linear& linear, unsigned char* memory) : p(linear), shared(memory), groups(linear.k, linear.group), once(keep(true)) {
    warp = threadIdx.x / 32;
    lane = threadIdx.x % 32;
    ring = shared + warp * STRIP_STAGES * STAGE_BYTES;
    strip = blockIdx.x;
    int start = blockIdx.y * p.k_per_block;
    first_chunk = start / COLUMNS;
    chunks = min_of(p.k_per_block, round_up(p.k, K_MULTIPLE) - start) / COLUMNS;
    group_tiles_log2 = min_of(groups.shift - 4, TILES == 8 ? 3 : 2);
    chunk_groups = TILES >> group_tiles_log2;
  }

  // Row `row` of x from this block's first column on, as pairs.
  __device__ const uint32_t* x_row(int row) const {
    return reinterpret_cast<const uint32_t*>(shared + STRIP_X + row * (2 * p.k_per_block + 16));
  }

  __device__ void copy_x() const {
    int start = blockIdx.y * p.k_per_block;
    int vectors = p.k_per_block / 8;
    const T* x = static_cast<const T*>(p.x);
    for (int i = threadIdx.x; i < p.m * vectors; i += STRIP_THREADS) {
      int row = i / vectors, column = i % vectors * 8;
      int bytes = bytes_left<T>(start + column, p.k);
      const T* from = bytes > 0 ? x + size_t(row) * p.x_stride + start + column : x;
      cp_async_16(shared + STRIP_X + row * (2 * p.k_per_block + 16) + 2 * column, from, bytes);
    }
    cp_async_commit();
  }

  // Starts the copy of this warp's turn number `turn`, or of nothing where there are no more chunks.
  __device__ void copy_chunk(int turn) const {
    int chunk = turn * STRIP_WARPS + warp;
    if (chunk < chunks) {
      chunk += first_chunk;
      unsigned char* stage = ring + turn % STRIP_STAGES * STAGE_BYTES;
      size_t tiles = round_up(p.k, K_MULTIPLE) / TILE;
      const uint8_t* codes = p.codes + (strip * tiles + size_t(chunk) * TILES) * TILE_BYTES<BITS>;
#pragma unroll
      for (int i = lane * 16; i < CHUNK_BYTES; i += 512) cp_async_16(stage + i, codes + i, once);
      size_t entry = (size_t(strip) * groups.count + (chunk * COLUMNS >> groups.shift)) * STRIP;
      if (lane < 8 * chunk_groups)
        cp_async_16(stage + STAGE_SCALES + lane * 16, static_cast<const T*>(p.scales) + entry + lane * 8);
      if (ZEROS && lane < 4 * chunk_groups) cp_async_16(stage + STAGE_ZEROS + lane * 16, p.zeros + entry + lane * 16);
    }
    cp_async_commit();
  }

  // Calls body(stage, columns before the chunk in this block's range) for each of this warp's chunks.
  template <class Body> __device__ void for_each_chunk(Body body) const {
    copy_x();
#pragma unroll
    for (int turn = 0; turn < STRIP_STAGES - 1; turn++) copy_chunk(turn);
    cp_async_wait<STRIP_STAGES - 1>(); // x
    block_barrier();
#pragma unroll 1
    for (int turn = 0; turn * STRIP_WARPS + warp < chunks; turn++) {
      cp_async_wait<STRIP_STAGES - 2>();
      warp_barrier(); // all lanes' copies are here, and all have done with the stage that is filled next
      copy_chunk(turn + STRIP_STAGES - 1);
      body(ring + turn % STRIP_STAGES * STAGE_BYTES, (turn * STRIP_WARPS + warp) * COLUMNS);
    }
  }

  // Of one group, before its scale: the products of the codes with B, in C-fragments of sixteen rows each, and those of ones with B.
  struct Sums {
    float product[4][4] = {}, ones[4] = {};
  };

  // Adds the products of a tile of the stage with a B-fragment; ones times B is Σ B, which zero points are subtracted by.
  __device__ void multiply(Sums& sums, const unsigned char* stage, int tile, uint32_t b0, uint32_t b1) const {
    uint32_t codes[TILE_WORDS<BITS>];
    words(codes, stage, tile);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint32_t w[4];
      Unpack<T, BITS>::pairs(w, codes + j * WORDS<BITS>);
      const uint32_t a[4] = {w[0], w[2], w[1], w[3]};
      mma<T>(sums.product[j], a, b0, b1);
    }
    if (ZEROS) {
      constexpr uint32_t one = Constants<T>::ONE;
      const uint32_t ones[4] = {one, one, one, one};
      mma<T>(sums.ones, ones, b0, b1);
    }
  }

  // The sum of row n = 8i + lane/4 and column 2(lane%4) + e of B, with its scale and zero point.
  static __device__ float scaled(const Sums& sums, int i, int e, const Bytes16& scales, const Bytes8& zeros) {
    float sum = sums.product[i / 2][2 * (i % 2) + e];
    if (ZEROS) sum -= float(centred<BITS>(zeros, i)) * sums.ones[e];
    return sum * to_float(element<T>(scales, i));
  }

  // A lane's words of a tile of the stage.
  __device__ void words(uint32_t (&to)[TILE_WORDS<BITS>], const unsigned char* stage, int tile) const {
#pragma unroll
    for (int v = 0; v < TILE_WORDS<BITS> / 4; v++) {
      Bytes16 vector = *reinterpret_cast<const Bytes16*>(stage + tile * TILE_BYTES<BITS> + v * 512 + lane * 16);
#pragma unroll
      for (int j = 0; j < 4; j++) to[4 * v + j] = vector.word[j];
    }
  }

  // Scales and zeros of rows n = 8i + lane/4, i = 0–7, of a group of the stage.
  __device__ Bytes16 scales(const unsigned char* stage, int group) const {
    return *reinterpret_cast<const Bytes16*>(stage + STAGE_SCALES + group * 128 + lane / 4 * 16);
  }
  __device__ Bytes8 zeros(const unsigned char* stage, int group) const {
    return *reinterpret_cast<const Bytes8*>(stage + STAGE_ZEROS + group * 64 + lane / 4 * 8);
  }

  // Where this warp leaves its sums, [m][64]: over its own and others' stages, which all have done with.
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

  // Adds what the warps left, in their order, and the splits, in theirs; writes y.
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
    if (splits == 1 || !draws_last(p.tickets + strip, splits, reinterpret_cast<uint32_t*>(shared + STRIP_X))) return;
    for (int i = threadIdx.x; i < count; i += STRIP_THREADS) {
      int row = i / STRIP, column = strip * STRIP + i % STRIP;
      float sum = 0;
      for (int s = 0; s < splits; s++) sum += load_l2(p.scratch + (size_t(s) * p.m + row) * width + column);
      store(row, column, sum);
    }
  }
};
