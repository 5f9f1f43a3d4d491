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

}  // namespace lutc
#endif
