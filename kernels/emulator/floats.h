// The two 16-bit floats, implemented with integers: f16 is 1-5-10 bits, bf16 1-8-7.
#pragma once

#include <cmath>
#include <cstring>

namespace emulator {

inline double decode(bf16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float single;
  memcpy(&single, &bits, sizeof single);
  return single;
}

inline double decode(f16 value) {
  int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp(fraction, -24)
                                     : std::ldexp(1024 + fraction, exponent - 25);
  return value.bits & 0x8000 ? -magnitude : magnitude;
}

// Rounds to nearest, ties to even. With m fraction bits and smallest normal exponent e0, a magnitude of exponent e is
// `units` of 2^(e−m); the hidden bit in `units` adds the 1 that the exponent field starts from.
template <class T> inline T encode(double value) {
  constexpr bool half = Same<T, f16>::value;
  constexpr int fraction_bits = half ? 10 : 7, smallest = half ? -14 : -126, infinity = half ? 0x7c00 : 0x7f80;
  uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return T{uint16_t(0x7fff)};
  if (value == 0) return T{sign};
  if (std::isinf(value)) return T{uint16_t(sign | infinity)};
  int exponent = std::ilogb(value);
  if (exponent < smallest) exponent = smallest;
  double units = std::nearbyint(std::ldexp(std::fabs(value), fraction_bits - exponent));
  double bits = units + double(exponent - smallest) * (1 << fraction_bits);
  return T{uint16_t(sign | (bits < infinity ? int(bits) : infinity))};
}

} // namespace emulator
