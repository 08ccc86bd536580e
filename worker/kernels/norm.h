// Rows of floats: layer norm, and their quantization to the 8-bit codes that the products take.
#pragma once
#include <cmath>

#include "simd.h"

namespace penstock {

/// Layer norm of x [width] into y [width]; width is a multiple of 16.
inline void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int width, float* y) {
  Floats sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
  for (int i = 0; i < width; i += LANES) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
  const Floats mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / static_cast<float>(width));
  for (int i = 0; i < width; i += LANES) {
    const Floats away = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
    squares = _mm512_fmadd_ps(away, away, squares);
  }
  const float variance = _mm512_reduce_add_ps(squares) / static_cast<float>(width);
  const Floats factor = _mm512_set1_ps(1.f / std::sqrt(variance + epsilon));
  for (int i = 0; i < width; i += LANES) {
    const Floats unit = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), factor);
    _mm512_storeu_ps(y + i, _mm512_fmadd_ps(unit, _mm512_loadu_ps(weight + i), _mm512_loadu_ps(bias + i)));
  }
}

constexpr int ZERO = 128;  // the code of 0.0: vpdpbusd takes the left operand unsigned

/// The largest absolute value of a row. Compared as integers, in which infinity is above all numbers and NaN
/// above infinity: a float maximum would lose NaN.
inline float largest(const float* x, int width) {
  Ints most = _mm512_setzero_si512();
  const Ints no_sign = _mm512_set1_epi32(0x7fffffff);
  for (int i = 0; i < width; i += LANES)
    most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_loadu_si512(x + i), no_sign));
  return _mm512_cvtss_f32(_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(_mm512_reduce_max_epu32(most)))));
}

/// codes[i] = ZERO + round(x[i] / scale), half to even; returns the scale. A row that is not finite gets a scale
/// that is not, whatever its codes: all its products come out infinite or NaN, never as ordinary numbers.
/// `fixed_scale` 0: the row's own, its largest absolute value / 127; else codes are cut off at -127 and 127.
inline float quantize(const float* x, int width, float fixed_scale, uint8_t* codes) {
  const float most = largest(x, width);
  const float scale = fixed_scale > 0 ? fixed_scale : (most < 1e-30f ? 1e-30f : most) / 127.f;
  const Floats inverse = _mm512_set1_ps(1.f / scale), reach = _mm512_set1_ps(127.f);
  const Floats negative_reach = _mm512_set1_ps(-127.f);
  const Ints zero = _mm512_set1_epi32(ZERO);
  for (int i = 0; i < width; i += LANES) {
    Floats code = _mm512_mul_ps(_mm512_loadu_ps(x + i), inverse);
    code = _mm512_max_ps(_mm512_min_ps(code, reach), negative_reach);
    const Ints whole = _mm512_add_epi32(_mm512_cvtps_epi32(code), zero);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(whole));
  }
  return std::isfinite(most) ? scale : most;
}

}  // namespace penstock
