// The common parts of gemm and w8a8: the rows of x in shared memory, the sums of warps and of splits, and writing y.
//
// A block of eight warps computes BM rows × COLUMNS columns of y over a range of K, in steps of 128 bytes of a row of x: 64 columns of 16
// bits, or 128 of 8. A stage of the pipeline holds BM such rows in 16-byte vectors; vector c of row r is at position c ^ (r % 8):
//
//     row 0:  0 1 2 3 4 5 6 7
//     row 1:  1 0 3 2 5 4 7 6       ldmatrix reads one vector of eight consecutive rows: a column of this picture, whose
//     row 2:  2 3 0 1 6 7 4 5       vectors all lie on different banks; so do the rows that cp.async writes.
//     …
#pragma once

#include "linear.cuh"

constexpr int TILE_THREADS = 256;
constexpr int ROW = 128; // bytes of a row of x in a stage

// A thread's part in copying this block's rows of x to a stage: vector c of rows r, r + 32, …; the fields that do not
// change between stages.
template <int BM> struct RowCopy {
  const uint8_t* from;
  size_t next; // bytes from one of its rows to the next
  int left;    // bytes of a row from its vector on
  int rows;    // of x from its first one on
  int to;

  // Rows of `row_bytes`, of which the first `used_bytes` exist.
  __device__ RowCopy(const void* x, int m, size_t row_bytes, int used_bytes) {
    int r = threadIdx.x / 8, c = threadIdx.x % 8, first = blockIdx.x * BM;
    from = static_cast<const uint8_t*>(x) + (first + r) * row_bytes + 16 * c;
    next = 32 * row_bytes;
    left = used_bytes - 16 * c;
    rows = m - first - r;
    to = r * ROW + (c ^ (r & 7)) * 16;
  }

  // Copies bytes [start, start + 128) of each row, if `on`. Rows and bytes that do not exist become 0.
  __device__ void copy(unsigned char* stage, int start, bool on) const {
    if (BM < 32) on = on && threadIdx.x < BM * 8;
    int bytes = left < start ? 0 : min_of(left - start, 16);
#pragma unroll
    for (int i = 0; i < round_up(BM, 32) / 32; i++)
      cp_async_16(stage + to + i * 32 * ROW, from + start + i * next, 32 * i < rows ? bytes : 0, on);
  }
};

// A thread's part in copying the codes of a block's STRIPS strips: BYTES of each, one strip after the other.
template <int STRIPS, int BYTES> struct CodeCopy {
  static constexpr int AT_ONCE = TILE_THREADS * 16;
  const uint8_t* from;
  size_t next; // bytes from one strip to the next
  int strips;  // from this thread's first one on
  Keep how;

  // Begins at the block's first strip and byte; `strips` exist.
  __device__ CodeCopy(const uint8_t* codes, size_t strip_bytes, int strips, Keep how) : next(strip_bytes), how(how) {
    int own = threadIdx.x * 16 / BYTES;
    from = codes + own * strip_bytes + threadIdx.x * 16 % BYTES;
    this->strips = strips - own;
  }

  // Copies the codes of step number `step`, if `on`. Strips that do not exist are not copied, because their columns of
  // y do not exist either.
  __device__ void copy(unsigned char* to, int step, bool on) const {
    const uint8_t* start = from + size_t(step) * BYTES;
#pragma unroll
    for (int i = 0; i < STRIPS * BYTES; i += AT_ONCE)
      cp_async_16(to + threadIdx.x * 16 + i, start + i / BYTES * next + i % BYTES, how, on && i / BYTES < strips);
  }
};

// Loads the A-fragment of rows first…first+15, 32 bytes of each from vector `vector` on.
__device__ inline void load_fragment(uint32_t (&a)[4], const unsigned char* stage, int first, int vector) {
  int lane = threadIdx.x % 32;
  int row = first + lane % 16;
  ldmatrix_x4(a, stage + row * ROW + ((vector + lane / 16) ^ (row & 7)) * 16);
}

// Adds the splits of K (blockIdx.z) of a tile in their order. The last block to arrive has the result, in the threads
// that hold sums; for it the function returns true. `sums` are COUNT of the tile's SIZE; HOLDERS threads hold some. In
// scratch they are stored by fours, a thread's next to its neighbours'.
template <int SIZE, int HOLDERS, class Sum, int COUNT>
__device__ inline bool add_splits(Sum (&sums)[COUNT], bool holds, Sum* scratch, uint32_t* tickets, unsigned char* shared) {
  static_assert(COUNT * HOLDERS == SIZE, "every sum is held once");
  uint32_t splits = gridDim.z;
  if (splits == 1) return true;
  size_t tile = blockIdx.y * gridDim.x + blockIdx.x;
  Four<Sum>* parts = reinterpret_cast<Four<Sum>*>(scratch + tile * splits * SIZE) + threadIdx.x;
  Four<Sum>* mine = parts + size_t(blockIdx.z) * (SIZE / 4);
  if (holds) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) mine[i / 4 * HOLDERS] = {sums[i], sums[i + 1], sums[i + 2], sums[i + 3]};
  }
  if (!draws_last(tickets + tile, splits, reinterpret_cast<uint32_t*>(shared))) return false;
  if (!holds) return true;
#pragma unroll
  for (int i = 0; i < COUNT; i++) sums[i] = 0;
  constexpr int AT_ONCE = COUNT == 64 ? 16 : 32; // sums with loads under way: more would not fit into registers
#pragma unroll 1
  for (uint32_t s = 0; s < splits; s++, parts += SIZE / 4) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
      Four<Sum> part = load_l2(parts + i / 4 * HOLDERS);
#pragma unroll
      for (int e = 0; e < 4; e++) sums[i + e] += part.of[e];
      if (i % AT_ONCE == AT_ONCE - 4 && i + 4 < COUNT) warp_barrier(); // keeps later loads behind it
    }
  }
  return true;
}

// Bytes of a row of y in shared memory, chosen so that eight rows are on different banks.
template <int COLUMNS> constexpr int OUT_ROW = COLUMNS * 2 + 16;

// Writes this block's rows of y [m][n] from shared memory, as whole vectors if rows are aligned to them.
template <class T, int BM, int COLUMNS> __device__ inline void write_rows(void* y, int m, int n, const unsigned char* shared) {
  const int first_row = blockIdx.x * BM, first_column = blockIdx.y * COLUMNS;
  block_barrier();
  for (int i = threadIdx.x; i < BM * COLUMNS / 8; i += TILE_THREADS) {
    int r = i / (COLUMNS / 8), c = i % (COLUMNS / 8) * 8;
    if (first_row + r >= m) return;
    copy_out<T>(static_cast<T*>(y) + size_t(first_row + r) * n + first_column + c, shared + r * OUT_ROW<COLUMNS> + 2 * c,
                n - first_column - c, n % 8 == 0);
  }
}

// The sums of a block's tile of y, in the C-fragments of its warps, and the steps after the loop over K.
//
// WM × STRIPS warps lie side by side over rows and columns of y, WK deep over the columns of x in each stage. A warp
// has 16·MT rows × 64 columns (one strip of W): sum[mt][i][e] is row 16·mt + lane/4 + 8(e/2), column 8i + 2(lane%4) +
// e%2 of it.
template <class T, class Sum, int BM, int STRIPS, int WM> struct Tile {
  static constexpr int COLUMNS = STRIPS * STRIP;
  static constexpr int MT = BM / 16 / WM;
  static constexpr int WK = TILE_THREADS / 32 / STRIPS / WM;
  static constexpr int HOLDERS = TILE_THREADS / WK; // threads that hold sums after the warps' sums are added
  static constexpr int COUNT = MT * 8 * 4;
  static_assert(WK == 1 || WK == 2, "add_warps adds two");

  Sum sum[MT][8][4] = {};
  int lane, strip, row, depth; // strip of the block; first row of the warp; 0…WK-1

  __device__ Tile() {
    int warp = threadIdx.x / 32;
    lane = threadIdx.x % 32;
    strip = warp % STRIPS;
    row = warp / STRIPS % WM * 16 * MT;
    depth = warp / STRIPS / WM;
  }

  // Calls body(sum, its number) for each of this thread's sums.
  template <class Body> __device__ void for_each(Body body) {
#pragma unroll
    for (int mt = 0; mt < MT; mt++)
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) body(sum[mt][i][e], (mt * 8 + i) * 4 + e);
  }

  // Adds the sums over all depths; the warps of depth 0 hold the result. All stages may be overwritten after this call.
  __device__ void add_warps(unsigned char* shared) {
    cp_async_wait<0>();
    block_barrier();
    if (WK == 1) return;
    Sum* others = reinterpret_cast<Sum*>(shared) + threadIdx.x % HOLDERS;
    if (depth == 1) for_each([&](Sum& value, int i) { others[i * HOLDERS] = value; });
    block_barrier();
    if (depth == 0) for_each([&](Sum& value, int i) { value += others[i * HOLDERS]; });
  }

  __device__ bool add_splits(Sum* scratch, uint32_t* tickets, unsigned char* shared) {
    Sum(&sums)[COUNT] = reinterpret_cast<Sum(&)[COUNT]>(sum);
    return ::add_splits<BM * COLUMNS, HOLDERS>(sums, depth == 0, scratch, tickets, shared);
  }

  // Writes value(sum, row, column) of every sum to y [m][n], through shared memory so that rows are written in whole
  // vectors.
  template <class Value> __device__ void write(void* y, int m, int n, unsigned char* shared, Value value) {
    const int first_row = blockIdx.x * BM, first_column = blockIdx.y * COLUMNS;
    block_barrier();
    if (depth == 0) {
#pragma unroll
      for (int mt = 0; mt < MT; mt++)
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
          for (int e = 0; e < 4; e += 2) {
            int r = row + 16 * mt + lane / 4 + 4 * e, c = strip * STRIP + 8 * i + lane % 4 * 2;
            int y_row = min_of(first_row + r, m - 1), y_column = first_column + c;
            float low = value(sum[mt][i][e], y_row, min_of(y_column, n - 1));
            float high = value(sum[mt][i][e + 1], y_row, min_of(y_column + 1, n - 1));
            *reinterpret_cast<uint32_t*>(shared + r * OUT_ROW<COLUMNS> + 2 * c) = pack<T>(low, high);
          }
    }
    write_rows<T, BM, COLUMNS>(y, m, n, shared);
  }
};
