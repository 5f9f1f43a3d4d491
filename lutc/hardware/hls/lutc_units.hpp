// Units of lookup tables for high-level synthesis: what the functions of exported tables are made of. C++11, plain
// integer types, no header of a vendor. Right shifts of negative numbers are arithmetic, as every compiler makes them.
#ifndef LUTC_UNITS_HPP
#define LUTC_UNITS_HPP
#include <cstdint>

#ifdef __SYNTHESIS__
#define LUTC_PRAGMA(text) _Pragma(#text)
#else
#define LUTC_PRAGMA(text)
#endif

namespace lutc {

// the segment of q is the number of cuts < q; a single entry has no cut
template <typename Cut, typename Slope, typename Intercept, int N>
struct Lines {
  Cut cuts[N > 1 ? N - 1 : 1];
  Slope slopes[N];
  Intercept intercepts[N];
};

// slope (q - zero_point) + intercept of the segment of q
template <typename Acc, typename Cut, typename Slope, typename Intercept, int N>
inline Acc accumulate(const Lines<Cut, Slope, Intercept, N>& lines, int32_t q, int32_t zero_point) {
  int segment = 0;
  for (int n = 0; n < N - 1; ++n) {
    LUTC_PRAGMA(HLS UNROLL)
    segment += lines.cuts[n] < q;
  }
  return static_cast<Acc>(lines.slopes[segment]) * static_cast<Acc>(q - zero_point) +
         static_cast<Acc>(lines.intercepts[segment]);
}

enum Rounding { half_up, half_away, half_even };

// product 2^-shift, rounded to nearest; shift from 0 to 62, halves as `rounding` says
template <typename Wide>
inline Wide rounded_shift(Wide product, int shift, Rounding rounding = half_up) {
  if (shift == 0) return product;
  Wide half = static_cast<Wide>(1) << (shift - 1);
  if (rounding == half_away) half -= product < 0;
  if (rounding == half_even) half = half - 1 + ((product >> shift) & 1);
  return (product + half) >> shift;
}

template <typename Code, typename Wide>
inline Code saturated(Wide code, Wide least, Wide most) {
  return static_cast<Code>(code < least ? least : code > most ? most : code);
}

// a ratio of scales: multiplier 2^-shift
struct Ratio {
  int64_t multiplier;
  int shift;
};

inline int64_t scaled(int64_t acc, Ratio ratio, int more = 0) {
  const int shift = ratio.shift + more;
  return rounded_shift<int64_t>(acc * ratio.multiplier, shift < 0 ? 0 : shift > 62 ? 62 : shift);
}

// index of the highest set bit of a positive number
inline int leading_one(int64_t x) {
  int index = 0;
  for (int n = 1; n < 63; ++n) {
    LUTC_PRAGMA(HLS UNROLL)
    if ((x >> n) != 0) index = n;
  }
  return index;
}

// x 2^places, rounded half up
inline int64_t shifted_to(int64_t x, int places) {
  return places >= 0 ? x * (INT64_C(1) << places) : rounded_shift<int64_t>(x, -places);
}

// x / n, rounded half up, n > 0
inline int64_t divided(int64_t x, int64_t n) {
  const int64_t numerator = 2 * x + n, quotient = numerator / (2 * n);
  return numerator - quotient * 2 * n < 0 ? quotient - 1 : quotient;
}

inline int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename Table>
inline int64_t exponential(const Table& table, Ratio ratio, int difference, int64_t most) {
  const int64_t weight = scaled(accumulate<int64_t>(table, difference, 0), ratio);
  return weight < 0 ? 0 : least_of(weight, most);
}

// a row of n codes, n at least 1: the largest code, the sum of exponentials, then the codes out
template <typename Unit>
inline void softmax(const int8_t* in, int8_t* out, int n) {
  int top = in[0];
  for (int i = 1; i < n; ++i) {
    LUTC_PRAGMA(HLS PIPELINE II=1)
    if (in[i] > top) top = in[i];
  }
  int64_t sum = 0;
  for (int i = 0; i < n; ++i) {
    LUTC_PRAGMA(HLS PIPELINE II=1)
    sum += exponential(Unit::exp(), Unit::exp_ratio(), in[i] - top, Unit::most_weight);
  }
  const int lead = leading_one(sum < 1 ? 1 : sum);
  const int64_t mantissa = least_of(shifted_to(sum < 1 ? 1 : sum, 14 - lead), Unit::most_mantissa);
  const int64_t root =
      scaled(accumulate<int64_t>(Unit::reciprocal(), static_cast<int32_t>(mantissa), 0), Unit::root_ratio());
  for (int i = 0; i < n; ++i) {
    LUTC_PRAGMA(HLS PIPELINE II=1)
    const int64_t weight = exponential(Unit::exp(), Unit::exp_ratio(), in[i] - top, Unit::most_weight);
    out[i] = saturated<int8_t, int64_t>(scaled(weight * root, Unit::out_ratio(), lead) + Unit::out_zero_point,
                                        Unit::least, Unit::most);
  }
}

// LayerNorm (Unit::centred) or RMSNorm of a row of Unit::n codes
template <typename Unit>
inline void norm(const int8_t* in, int8_t* out) {
  int64_t total = 0, squares = 0;
  for (int i = 0; i < Unit::n; ++i) {
    LUTC_PRAGMA(HLS PIPELINE II=1)
    const int64_t c = in[i] - Unit::zero_point;
    total += c;
    squares += c * c;
  }
  const int64_t mean = Unit::centred ? divided(total, Unit::n) : 0;
  const int64_t rest = Unit::centred ? total - Unit::n * mean : 0;
  // the sum of (c - mean)^2 is that of c^2, less mean (total + rest)
  const int64_t spread = squares - mean * (total + rest);
  const int64_t scale = INT64_C(1) << Unit::fraction;
  const int64_t energy = spread * scale - divided(rest * rest * scale, Unit::n) + Unit::epsilon;
  const int half = leading_one(energy < 1 ? 1 : energy) >> 1;
  const int64_t mantissa = least_of(shifted_to(energy < 1 ? 1 : energy, 13 - 2 * half), Unit::most_mantissa);
  const int64_t root =
      scaled(accumulate<int64_t>(Unit::rsqrt(), static_cast<int32_t>(mantissa), 0), Unit::root_ratio());
  const int64_t below = divided(rest * 128, Unit::n);
  for (int i = 0; i < Unit::n; ++i) {
    LUTC_PRAGMA(HLS PIPELINE II=1)
    const int64_t deviation = (in[i] - Unit::zero_point - mean) * 128 - below;
    const int64_t hidden = saturated<int64_t, int64_t>(scaled(deviation * root, Unit::hidden_ratio(), half), -32768, 32767);
    const int64_t acc = hidden * Unit::weight(i) + Unit::bias(i);
    out[i] = saturated<int8_t, int64_t>(scaled(acc, Unit::out_ratio()) + Unit::out_zero_point, Unit::least, Unit::most);
  }
}

// --- fp16 on its bits, rounded to nearest even or truncated, as docs/hardware.md says --------------------------------

// the smaller magnitude is aligned, with three bits below the significand
template <bool Truncate>
inline uint16_t half_add(uint16_t a, uint16_t b) {
  const bool swap = (a & 0x7fff) < (b & 0x7fff);
  const uint32_t greater = (swap ? b : a) & 0x7fff, lesser = (swap ? a : b) & 0x7fff;
  const bool differ = ((a ^ b) & 0x8000) != 0;
  if (greater > 0x7c00 || (greater == 0x7c00 && lesser == 0x7c00 && differ)) return 0x7e00;
  const uint32_t sign = (swap ? b : a) & 0x8000;
  if (greater == 0x7c00) return static_cast<uint16_t>(sign | 0x7c00);
  const int low = lesser >> 10 ? static_cast<int>(lesser >> 10) : 1;
  int exponent = greater >> 10 ? static_cast<int>(greater >> 10) : 1;
  const int shift = exponent - low > 15 ? 15 : exponent - low;
  const uint32_t x = ((greater & 0x3ff) | (greater >> 10 ? 0x400u : 0u)) << 3;
  const uint32_t y = ((lesser & 0x3ff) | (lesser >> 10 ? 0x400u : 0u)) << 3;
  const uint32_t dropped = (y & ((1u << shift) - 1)) != 0;
  const uint32_t aligned = Truncate ? (y >> (shift + 3)) << 3 : (y >> shift) | dropped;
  uint32_t total = differ ? x - aligned : x + aligned;
  if (total == 0) return static_cast<uint16_t>(differ ? 0 : sign);
  if (total >> 14) {
    total = (total >> 1) | (total & 1);
    ++exponent;
  }
  for (int step = 8; step; step >>= 1) {
    LUTC_PRAGMA(HLS UNROLL)
    if (total < (1u << (14 - step)) && exponent > step) {
      total <<= step;
      exponent -= step;
    }
  }
  uint32_t kept = total >> 3;
  const uint32_t rest = total & 7;
  if (!Truncate) kept += rest > 4 || (rest == 4 && (kept & 1));
  const uint32_t magnitude = (static_cast<uint32_t>(exponent - 1) << 10) + kept;
  return static_cast<uint16_t>(sign | (magnitude >= 0x7c00 ? (Truncate ? 0x7bffu : 0x7c00u) : magnitude));
}

// the product of the significands is brought to [2^21, 2^22), a subnormal result shifted down
template <bool Truncate>
inline uint16_t half_mul(uint16_t a, uint16_t b) {
  const uint32_t sign = (a ^ b) & 0x8000, x = a & 0x7fff, y = b & 0x7fff;
  const bool infinite = x == 0x7c00 || y == 0x7c00, zero = x == 0 || y == 0;
  if (x > 0x7c00 || y > 0x7c00 || (infinite && zero)) return 0x7e00;
  if (infinite) return static_cast<uint16_t>(sign | 0x7c00);
  if (zero) return static_cast<uint16_t>(sign);
  uint32_t product = ((x & 0x3ff) | (x >> 10 ? 0x400u : 0u)) * ((y & 0x3ff) | (y >> 10 ? 0x400u : 0u));
  int exponent = static_cast<int>(x >> 10 ? x >> 10 : 1) + static_cast<int>(y >> 10 ? y >> 10 : 1) - 14;
  for (int step = 16; step; step >>= 1) {
    LUTC_PRAGMA(HLS UNROLL)
    if (product < (1u << (22 - step))) {
      product <<= step;
      exponent -= step;
    }
  }
  const int below = 1 - exponent;
  const int shift = 11 + (below < 0 ? 0 : below > 12 ? 12 : below);
  uint32_t kept = product >> shift;
  const uint32_t rest = product & ((1u << shift) - 1), half = 1u << (shift - 1);
  if (!Truncate) kept += rest > half || (rest == half && (kept & 1));
  const uint32_t magnitude = (static_cast<uint32_t>(exponent > 1 ? exponent - 1 : 0) << 10) + kept;
  return static_cast<uint16_t>(sign | (magnitude >= 0x7c00 ? (Truncate ? 0x7bffu : 0x7c00u) : magnitude));
}

// unsigned keys that ascend with the values of fp16 bits
inline uint32_t half_key(uint16_t x) { return (x & 0x8000) ? static_cast<uint16_t>(~x) : x | 0x8000u; }

// the magnitude bits of an unsigned integer, rounded to nearest even; infinity beyond
inline uint16_t half_of_integer(int64_t n) {
  if (n == 0) return 0;
  const int p = leading_one(n);
  if (p > 15) return 0x7c00;
  const int64_t mantissa = p <= 10 ? n << (10 - p) : rounded_shift<int64_t>(n, p - 10, half_even);
  return static_cast<uint16_t>(((14 + p) << 10) + mantissa);
}

// number of ascending keys that `key` reaches
template <int N>
inline int reached(const uint32_t (&keys)[N], uint32_t key) {
  int count = 0;
  for (int i = 0; i < N; ++i) {
    LUTC_PRAGMA(HLS UNROLL)
    count += key >= keys[i];
  }
  return count;
}

// whole part of a position in fp16, 0 below zero, at most `most`
inline int whole_part(uint16_t position, int most) {
  const int exponent = (position >> 10) & 31;
  if ((position & 0x8000) || exponent < 15) return 0;
  const int whole = exponent >= 25 ? 0x7fff : ((position & 0x3ff) | 0x400) >> (25 - exponent);
  return whole < most ? whole : most;
}

// exponent of the leading bit + 24, and the ten bits below it
inline int leading_place(uint16_t x, uint16_t& mantissa) {
  const int exponent = (x >> 10) & 31, low = x & 0x3ff;
  if (exponent) {
    mantissa = static_cast<uint16_t>(low);
    return exponent + 9;
  }
  const int place = low ? leading_one(low) : 0;
  mantissa = static_cast<uint16_t>((low << (10 - place)) & 0x3ff);
  return place;
}

// floor(x / period) of a finite fp16 number: significand * factor >> (places + 25 - exponent)
inline int64_t whole_periods(uint16_t x, int64_t factor, int places) {
  const int exponent = (x >> 10) & 31;
  const int64_t significand = (x & 0x3ff) | (exponent ? 0x400 : 0);
  return (((x & 0x8000) ? -significand : significand) * factor) >> (places + 25 - (exponent ? exponent : 1));
}

inline uint16_t half_of_bfloat(uint16_t a) {
  const uint32_t magnitude = a & 0x7fff, sign = a & 0x8000;
  if (magnitude > 0x7f80) return 0x7e00;
  const int exponent = static_cast<int>(magnitude >> 7);
  if (exponent > 142) return static_cast<uint16_t>(sign | 0x7c00);
  if (exponent > 112) return static_cast<uint16_t>(sign | (static_cast<uint32_t>(exponent - 112) << 10) | ((a & 0x7f) << 3));
  const int64_t whole = ((a & 0x7f) | (exponent ? 0x80 : 0)) << 2;
  const int shift = 112 - exponent > 11 ? 11 : 112 - exponent;
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(rounded_shift<int64_t>(whole, shift, half_even)));
}

inline uint16_t bfloat_of_half(uint16_t a) {
  const uint32_t sign = a & 0x8000;
  if ((a & 0x7fff) > 0x7c00) return 0x7fc0;
  if ((a & 0x7fff) == 0x7c00) return static_cast<uint16_t>(sign | 0x7f80);
  if ((a & 0x7fff) == 0) return static_cast<uint16_t>(sign);
  uint16_t mantissa = 0;
  const int place = leading_place(static_cast<uint16_t>(a & 0x7fff), mantissa);
  const int64_t number = (static_cast<int64_t>(place + 103) << 10) | mantissa;
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(rounded_shift<int64_t>(number, 3, half_even)));
}

}  // namespace lutc
#endif
