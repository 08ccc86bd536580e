// Vectors of 16 floats, the two functions of them that GPT-2 needs, and the 16-bit floats of keys and values.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace penstock {

using Floats = __m512;
using Ints = __m512i;
using Mask = __mmask16;
using Half = uint16_t;  // a float of 16 bits, IEEE: 11 bits of precision, up to 65504, infinite above

constexpr int LANES = 16;

/// The mask of the first `count` lanes; all of them from 16 on, none up to 0.
inline Mask first_lanes(int count) {
  return count >= LANES ? 0xffff : count <= 0 ? 0 : static_cast<Mask>((1u << count) - 1);
}

inline Floats widen(const Half* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

inline __m256i narrow(Floats x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }

/// e^x to about one unit in the last place (Cephes' expf). NaN stays NaN: the processor's min and max return
/// their second operand when one is NaN, so x stands second.
inline Floats exponential(Floats x) {
  x = _mm512_max_ps(_mm512_set1_ps(-87.f), x);
  x = _mm512_min_ps(_mm512_set1_ps(88.f), x);
  const Floats n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  Floats r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);  // ln 2 in two parts
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  Floats p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.f)));
  return _mm512_scalef_ps(p, n);
}

/// GPT-2's gelu, the one with tanh: x (1 + tanh u) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
inline Floats gelu(Floats x) {
  constexpr float LINEAR = -2 * 0.7978845608f, CUBIC = LINEAR * 0.044715f;
  const Floats square = _mm512_mul_ps(x, x);
  const Floats factor = _mm512_fmadd_ps(square, _mm512_set1_ps(CUBIC), _mm512_set1_ps(LINEAR));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.f), exponential(_mm512_mul_ps(x, factor))));
}

inline void prefetch(const void* line) { _mm_prefetch(static_cast<const char*>(line), _MM_HINT_T0); }

}  // namespace penstock
