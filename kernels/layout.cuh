// Sizes of the packed weight (README.md draws it), and the conversion of codes to fragments of `mma`.
//
// For every 16 rows of the strip, a lane's vector of a tile holds the data of one A-fragment of the weight, which is
// also the data of two B-fragments. `Unpack` gives those four registers as (code − zero) in T, exactly; zero is 8 or
// 128 if the scheme is symmetric.
#pragma once

#include "common.cuh"

constexpr int STRIP = 64;       // rows of W (n) in a strip
constexpr int TILE = 16;        // columns of W (k) in a tile
constexpr int K_MULTIPLE = 128; // K is padded to a multiple of it

template <int BITS> constexpr int TILE_BYTES = STRIP * TILE * BITS / 8;
template <int BITS> constexpr int TILE_WORDS = TILE_BYTES<BITS> / 128; // per lane: 4 or 8
template <int BITS> constexpr int WORDS = BITS / 4;                    // per sixteen rows
template <int BITS> constexpr int OFFSET = 1 << (BITS - 1);

// The groups of a row: their number, and log2 of their columns (30 if one group has all columns: then every column >>
// 30 is 0). Shifts, because a division by a number known only at run time costs as much as unpacking a tile.
struct Groups {
  int count, shift;
  __device__ Groups(int k, int group) {
    int k128 = round_up(k, K_MULTIPLE);
    shift = group >= k128 ? 30 : group == 32 ? 5 : group == 64 ? 6 : 7;
    count = group >= k128 ? 1 : k128 >> shift;
  }
};

// One and minus zero, each twice.
template <class T> struct Constants;
template <> struct Constants<f16> { static constexpr uint32_t ONE = 0x3c003c00, MINUS_ZERO = 0x80008000; };
template <> struct Constants<bf16> { static constexpr uint32_t ONE = 0x3f803f80, MINUS_ZERO = 0x80008000; };

template <class T> __device__ inline uint32_t mul2(uint32_t a, uint32_t b) { return fma2<T>(a, b, Constants<T>::MINUS_ZERO); }

// Unpacks the four pairs (k, k+1) of sixteen rows of a tile, from the one word (W4) or two words (W8) that hold them:
// (n, k), (n, k+8), (n+8, k), (n+8, k+8) with n = l/4, k = 2(l%4). The zero point is subtracted from each code,
// exactly. If ZEROS, `zero` has those of rows n and n+8, as `Zero`s; otherwise the zero point is OFFSET.
//
// No conversion instruction is needed: a code's bits with the exponent of 1024 (f16: 0x6400) or 128 (bf16: 0x4300) are
// the number 1024 + code or 128 + code. A zero point's bits with the exponent of −1024 or −128, when added, leave code
// − zero. In f16 the second nibble counts sixteen times, 1024 + 16·code, so it is multiplied by 1/16; bf16 has too few
// bits for that and shifts.
template <class T, int BITS> struct Unpack;

// Returns −(1024 + zero) or −(128 + zero) twice, for zero point i of four; `exponent` is 0xe4 or 0xc3 in every byte.
__device__ inline uint32_t minus_zero(uint32_t zeros, int i, uint32_t exponent) { return permute_bytes(zeros, exponent, 0x4040 + i * 0x0101); }

template <> struct Unpack<f16, 4> {
  using Zero = uint32_t;
  static __device__ inline Zero zero(uint32_t zeros, int i) { return minus_zero(zeros, i, 0xe4e4e4e4); }
  template <bool ZEROS> static __device__ inline void pairs(uint32_t (&pair)[4], const uint32_t* words, const Zero* zero) {
    for (int half = 0; half < 2; half++) {
      uint32_t q = *words >> (8 * half), minus = 0xe408e408, minus_high = 0xd480d480; // −1032, −72
      if (ZEROS) minus = zero[half], minus_high = fma2<f16>(minus, Constants<f16>::ONE, 0x63806380); // + 960: −(64 + zero)
      pair[2 * half] = fma2<f16>(and_or(q, 0x000f000f, 0x64006400), Constants<f16>::ONE, minus);
      pair[2 * half + 1] = fma2<f16>(and_or(q, 0x00f000f0, 0x64006400), 0x2c002c00, minus_high);
    }
  }
};

template <> struct Unpack<bf16, 4> {
  using Zero = uint32_t;
  static __device__ inline Zero zero(uint32_t zeros, int i) { return minus_zero(zeros, i, 0xc3c3c3c3); }
  template <bool ZEROS> static __device__ inline void pairs(uint32_t (&pair)[4], const uint32_t* words, const Zero* zero) {
    for (int i = 0; i < 4; i++)
      pair[i] = fma2<bf16>(and_or(*words >> (4 * i), 0x000f000f, 0x43004300), Constants<bf16>::ONE, ZEROS ? zero[i / 2] : 0xc308c308); // −136
  }
};

template <> struct Unpack<f16, 8> {
  using Zero = uint32_t;
  static __device__ inline Zero zero(uint32_t zeros, int i) { return minus_zero(zeros, i, 0xe4e4e4e4); }
  template <bool ZEROS> static __device__ inline void pairs(uint32_t (&pair)[4], const uint32_t* words, const Zero* zero) {
    for (int i = 0; i < 4; i++) {
      uint32_t q = permute_bytes(words[i / 2], 0x64646464, i % 2 ? 0x5351 : 0x5250);
      pair[i] = fma2<f16>(q, Constants<f16>::ONE, ZEROS ? zero[i / 2] : 0xe480e480); // −1152
    }
  }
};

// Eight bits do not fit beside bf16's exponent, but code − zero is exact in bf16: it is computed with the float 2^23 +
// code.
template <> struct Unpack<bf16, 8> {
  using Zero = float;
  static __device__ inline float under(uint32_t exponent, uint32_t bytes, int i) { return bits_to_float(permute_bytes(bytes, exponent, 0x7440 | i)); }
  static __device__ inline Zero zero(uint32_t zeros, int i) { return under(0xcb000000, zeros, i); } // −(2^23 + zero)
  template <bool ZEROS> static __device__ inline void pairs(uint32_t (&pair)[4], const uint32_t* words, const Zero* zero) {
    for (int i = 0; i < 4; i++) {
      float minus = ZEROS ? zero[i / 2] : -8388736.0f; // −(2^23 + 128)
      auto value = [&](int byte) { return under(0x4b000000, words[i / 2], byte) + minus; };
      pair[i] = pack<bf16>(value(i % 2), value(i % 2 + 2));
    }
  }
};

// Returns element i of eight 16-bit values.
template <class T> __device__ inline T element(const Bytes16& values, int i) {
  return T{uint16_t(values.word[i / 2] >> (16 * (i % 2)))};
}

// Returns element i twice in a register.
__device__ inline uint32_t twice(const Bytes16& values, int i) { return broadcast(values.word[i / 2], i % 2 == 1); }

// Returns zero − offset of zero point i of eight.
template <int BITS> __device__ inline int centred(const Bytes8& zeros, int i) {
  return int((zeros.word[i / 4] >> (8 * (i % 4))) & 0xff) - OFFSET<BITS>;
}

// Copies up to eight values from shared memory to `to`; `left` of them exist. Copies one vector if rows are aligned to
// it.
template <class T> __device__ inline void copy_out(T* to, const unsigned char* from, int left, bool aligned) {
  if (aligned && left >= 8) *reinterpret_cast<Bytes16*>(to) = *reinterpret_cast<const Bytes16*>(from);
  else
    for (int c = 0; c < min_of(left, 8); c++) to[c] = reinterpret_cast<const T*>(from)[c];
}

// Defines the kernels for every pair of bits and type, without and with zero points.
#define LLMC_WEIGHT_KERNELS(DEFINE, operation)        \
  DEFINE(operation##_w4_f16, f16, 4, false)           \
  DEFINE(operation##_w4_f16_zero, f16, 4, true)       \
  DEFINE(operation##_w4_bf16, bf16, 4, false)         \
  DEFINE(operation##_w4_bf16_zero, bf16, 4, true)     \
  DEFINE(operation##_w8_f16, f16, 8, false)           \
  DEFINE(operation##_w8_f16_zero, f16, 8, true)       \
  DEFINE(operation##_w8_bf16, bf16, 8, false)         \
  DEFINE(operation##_w8_bf16_zero, bf16, 8, true)
