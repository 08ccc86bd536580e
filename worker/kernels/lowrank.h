// LoRA: what an adapter adds to a product, in floats and before anything is quantized.
#pragma once
#include <vector>

#include "simd.h"

namespace penstock {

/// y += up^T (down x). An empty one adds nothing.
struct LowRank {
  int rank = 0;
  std::vector<float> down;  // [rank, in]
  std::vector<float> up;    // [rank, out]: transposed, so that a row of it is added as it lies

  /// delta[out] = up^T (down x[in]), summed in one order whatever the company; in and out are multiples of 16.
  void apply(const float* x, int in, int out, float* delta) const {
    std::vector<float> middle(rank);
    for (int r = 0; r < rank; ++r) {
      const float* row = down.data() + static_cast<size_t>(r) * in;
      Floats sum = _mm512_setzero_ps();
      for (int i = 0; i < in; i += LANES)
        sum = _mm512_fmadd_ps(_mm512_loadu_ps(row + i), _mm512_loadu_ps(x + i), sum);
      middle[r] = _mm512_reduce_add_ps(sum);
    }
    for (int i = 0; i < out; i += LANES) {
      Floats sum = _mm512_setzero_ps();
      for (int r = 0; r < rank; ++r)
        sum = _mm512_fmadd_ps(_mm512_loadu_ps(up.data() + static_cast<size_t>(r) * out + i),
                              _mm512_set1_ps(middle[r]), sum);
      _mm512_storeu_ps(delta + i, sum);
    }
  }
};

}  // namespace penstock
