// The functions of common.cuh in plain C++, and CUDA's keywords and built-ins; common.cuh describes each function.
#pragma once

#include "emulator.h"
#include "floats.h"

#include <cmath>
#include <cstring>

#define __device__
#define __host__
#define __global__
#define __launch_bounds__(...)
#define threadIdx (emulator::place().thread)
#define blockIdx (emulator::place().block)
#define blockDim (emulator::place().block_dim)
#define gridDim (emulator::place().grid_dim)

#define LLMC_SHARED(name) unsigned char* name = emulator::shared()
#define LLMC_EXPORT(name)                                                                                            \
  extern "C" int name##_emulate(const emulator::Launch* launch, void** params, char* error, size_t error_bytes) {    \
    return emulator::run(*launch, name, params, error, error_bytes);                                                 \
  }                                                                                                                  \
  extern "C" { extern const size_t name##_parameter_bytes = emulator::parameter_bytes(name); }

inline uint32_t and_or(uint32_t q, uint32_t mask, uint32_t bits) { return (q & mask) | bits; }

inline uint32_t broadcast(uint32_t pair, bool high) { return (high ? pair >> 16 : pair & 0xffff) * 0x10001u; }

inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  uint64_t both = uint64_t(b) << 32 | a;
  uint32_t d = 0;
  for (int i = 0; i < 4; i++) d |= uint32_t(both >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  return d;
}

template <class T> inline float to_float(T value) { return float(emulator::decode(value)); }

template <class T> inline uint32_t pack(float low, float high) {
  return emulator::encode<T>(low).bits | uint32_t(emulator::encode<T>(high).bits) << 16;
}

template <class T> inline uint32_t fma2(uint32_t a, uint32_t b, uint32_t c) {
  auto one = [&](int shift) -> uint32_t {
    auto part = [&](uint32_t pair) { return emulator::decode(T{uint16_t(pair >> shift)}); };
    return uint32_t(emulator::encode<T>(part(a) * part(b) + part(c)).bits) << shift;
  };
  return one(0) | one(16);
}

inline int round_to_int(float value) { return std::isnan(value) ? 0 : int(std::nearbyint(value)); }

inline float magnitude(float value) { return std::fabs(value); }

inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline float max_nan(float a, float b) { return std::isnan(a) || a > b ? a : b; }

namespace emulator {

inline float as_float(uint32_t bits) { return bits_to_float(bits); }
inline uint32_t as_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Row and column (or column pair) of a fragment's elements; see mma in common.cuh.
inline int group(int lane) { return lane / 4; }
inline int quad(int lane) { return lane % 4; }

// in: a[4], b0, b1, c[4]; out: c[4].
template <class T> void mma_warp(Exchange& x) {
  double a[16][16], b[16][8];
  for (int l = 0; l < LANES; l++)
    for (int half = 0; half < 2; half++) {
      auto value = [&](int i) { return decode(T{uint16_t(x.in[l][i] >> (16 * half))}); };
      for (int i = 0; i < 4; i++) a[group(l) + 8 * (i % 2)][2 * quad(l) + half + 8 * (i / 2)] = value(i);
      for (int i = 0; i < 2; i++) b[2 * quad(l) + half + 8 * i][group(l)] = value(4 + i);
    }
  for (int l = 0; l < LANES; l++)
    for (int i = 0; i < 4; i++) {
      double sum = as_float(x.in[l][6 + i]);
      for (int k = 0; k < 16; k++) sum += a[group(l) + 8 * (i / 2)][k] * b[k][2 * quad(l) + i % 2];
      x.out[l][i] = as_bits(float(sum));
    }
}

inline void mma_s8_warp(Exchange& x) {
  int a[16][32], b[32][8];
  for (int l = 0; l < LANES; l++)
    for (int byte = 0; byte < 4; byte++) {
      auto value = [&](int i) { return int(int8_t(x.in[l][i] >> (8 * byte))); };
      for (int i = 0; i < 4; i++) a[group(l) + 8 * (i % 2)][4 * quad(l) + byte + 16 * (i / 2)] = value(i);
      for (int i = 0; i < 2; i++) b[4 * quad(l) + byte + 16 * i][group(l)] = value(4 + i);
    }
  for (int l = 0; l < LANES; l++)
    for (int i = 0; i < 4; i++) {
      int sum = int(x.in[l][6 + i]);
      for (int k = 0; k < 32; k++) sum += a[group(l) + 8 * (i / 2)][k] * b[k][2 * quad(l) + i % 2];
      x.out[l][i] = uint32_t(sum);
    }
}

inline void ldmatrix_warp(Exchange& x) {
  for (int l = 0; l < LANES; l++)
    for (int i = 0; i < 4; i++)
      memcpy(&x.out[l][i], static_cast<const unsigned char*>(x.rows[8 * i + group(l)]) + 4 * quad(l), 4);
}

inline void mma_lane(const char* what, void (*work)(Exchange&), void* c, const uint32_t* a, uint32_t b0, uint32_t b1) {
  uint32_t* in = exchange().in[lane()];
  memcpy(in, a, 16);
  in[4] = b0, in[5] = b1;
  memcpy(in + 6, c, 16);
  meet_warp(what, work);
  memcpy(c, exchange().out[lane()], 16);
}

// d [64][128] += a [64][16] · b [16][128]; see wgmma in common.cuh.
template <class T> void wgmma_warpgroup(const Product* const (&threads)[WARPGROUP]) {
  double a[64][16], b[128][16];
  const unsigned char* rows = threads[0]->rows;
  for (int t = 0; t < 128; t++)
    for (int k = 0; k < 16; k++) {
      int vector = (threads[0]->vector + k / 8) ^ (t % 8);
      T value;
      memcpy(&value, rows + t * 128 + vector * 16 + k % 8 * 2, sizeof value);
      b[t][k] = decode(value);
    }
  for (int t = 0; t < WARPGROUP; t++)
    for (int i = 0; i < 8; i++) {
      int lane = t % LANES, row = t / LANES * 16 + group(lane) + 8 * (i / 2 % 2), k = 2 * quad(lane) + i % 2 + 8 * (i / 4);
      a[row][k] = decode(T{uint16_t(threads[t]->a[i / 2] >> (16 * (i % 2)))});
    }
  for (int t = 0; t < WARPGROUP; t++)
    for (int i = 0; i < 64; i++) {
      int lane = t % LANES, row = t / LANES * 16 + group(lane) + 8 * (i / 2 % 2), column = i / 4 * 8 + 2 * quad(lane) + i % 2;
      double sum = threads[t]->d[i];
      for (int k = 0; k < 16; k++) sum += a[row][k] * b[column][k];
      threads[t]->d[i] = float(sum);
    }
}

} // namespace emulator

struct MatrixB {
  const unsigned char* rows;
  int vector;
};

inline MatrixB matrix_b(const unsigned char* rows, int vector) {
  emulator::check_shared(rows, "matrix_b");
  if ((rows - emulator::shared()) % 1024 != 0) emulator::fail("matrix_b: rows must begin at a multiple of 1024 bytes");
  return {rows, vector};
}

template <class T> inline void wgmma(float (&d)[64], const uint32_t (&a)[4], MatrixB b) {
  emulator::products().push_back({d, a, b.rows, b.vector, emulator::wgmma_warpgroup<T>, emulator::product_groups()});
}

inline void wgmma_fence() {}
inline void wgmma_commit() { emulator::product_groups()++; }
template <int pending> inline void wgmma_wait() { emulator::finish_products(pending); }
inline void shared_fence() {}

template <class T> inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::mma_lane("mma", emulator::mma_warp<T>, c, a, b0, b1);
}

inline void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::mma_lane("mma_s8", emulator::mma_s8_warp, c, a, b0, b1);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  emulator::check_shared(row, "ldmatrix_x4");
  emulator::exchange().rows[emulator::lane()] = row;
  emulator::meet_warp("ldmatrix_x4", emulator::ldmatrix_warp);
  memcpy(r, emulator::exchange().out[emulator::lane()], 16);
}

inline void cp_async_16(void* to, const void* from, int bytes = 16, bool on = true) {
  if (!on) return;
  emulator::check_shared(to, "cp_async_16");
  if (bytes < 0 || bytes > 16 || reinterpret_cast<uintptr_t>(from) % 16 != 0) emulator::fail("cp_async_16: size or source");
  emulator::check_global(from, bytes, "cp_async_16");
  memset(to, 0xff, 16);
  auto source = static_cast<const unsigned char*>(from);
  emulator::copies().push_back({static_cast<unsigned char*>(to), source, bytes, emulator::copy_groups()});
}

struct Keep {};
inline Keep keep(bool) { return {}; }
inline void cp_async_16(void* to, const void* from, Keep, bool on = true) { cp_async_16(to, from, 16, on); }
inline void cp_async_commit() { emulator::copy_groups()++; }

template <int pending> inline void cp_async_wait() {
  auto& copies = emulator::copies();
  std::erase_if(copies, [](const emulator::Copy& copy) {
    if (copy.group + pending >= emulator::copy_groups()) return false;
    memcpy(copy.to, copy.from, copy.bytes);
    memset(copy.to + copy.bytes, 0, 16 - copy.bytes);
    return true;
  });
}

inline float shuffle_xor(float value, int mask) {
  emulator::exchange().in[emulator::lane()][0] = emulator::as_bits(value);
  emulator::meet_warp("shuffle_xor", [](emulator::Exchange& x) {
    for (int l = 0; l < emulator::LANES; l++) x.out[l][0] = x.in[l][0];
  });
  return emulator::as_float(emulator::exchange().out[emulator::lane() ^ mask][0]);
}

inline void warp_barrier() { emulator::meet_warp("warp_barrier", [](emulator::Exchange&) {}); }
inline void block_barrier() { emulator::meet_block(); }

inline uint32_t fetch_add(uint32_t* counter) {
  emulator::take_turns();
  return (*counter)++;
}

template <class Item> inline Item load_l2(const Item* from) { return *from; }
