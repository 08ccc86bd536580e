// The workspace of a pass: what its rows hold between two phases.
#pragma once
#include <algorithm>

#include "model.h"

namespace penstock {

constexpr int MOST_HEADS = 6;  // that look back together: their scores of 1,024 positions fit the first cache

/// Buffers for `rows` rows and, for the head, `wanted` rows of `threads` threads; they only ever grow.
struct Model::Workspace {
  int rows = 0, wanted = 0, threads = 0;
  float *x, *chosen;   // [rows, width] the residual stream; of the wanted rows
  float* normed;       // [rows, width] input of the first product of a half layer
  float* qkv;          // [rows, 3 * width]
  float* attended;     // [rows, width]
  float* hidden;       // [rows, inner]
  uint8_t* codes;      // [rows, the widest input] of the product being made
  float* scales;       // [rows]
  float* deltas;       // [rows, the widest output] what adapters add; touched only where one does
  const float** delta;  // [rows] into deltas, or null
  float* best_values;  // [threads, wanted, 16]
  int32_t* best_tokens;

  size_t score_stride, thread_scores;  // floats between two heads' scores; bytes between two threads'
  Pages scores;                        // [threads, heads or queries, score_stride]

  void fit(const Architecture& a, int rows_now, int wanted_now, int threads_now) {
    if (threads_now > threads) {
      threads = threads_now;
      score_stride = rounded_up(a.context, BLOCK) + LANES;
      thread_scores = rounded_up(std::max(QUERIES, MOST_HEADS) * score_stride * sizeof(float), PAGE);
      scores = Pages(threads * thread_scores);
    }
    if (rows_now <= rows && wanted_now * threads_now <= wanted) return;
    rows = std::max(rows, rows_now);
    wanted = std::max(wanted, wanted_now * threads_now);
    const size_t widest_out = std::max(3 * a.width, a.inner), widest_in = std::max(a.width, a.inner), n = rows;
    const size_t bytes = 4 * Arena::room<float>(n * a.width) + Arena::room<float>(n * 3 * a.width) +
                         Arena::room<float>(n * a.inner) + Arena::room<uint8_t>(n * widest_in) +
                         Arena::room<float>(n) + Arena::room<float>(n * widest_out) +
                         Arena::room<const float*>(n) + 2 * Arena::room<float>(wanted * LANES);
    arena = Arena(bytes);
    x = arena.take<float>(n * a.width);
    chosen = arena.take<float>(n * a.width);
    normed = arena.take<float>(n * a.width);
    attended = arena.take<float>(n * a.width);
    qkv = arena.take<float>(n * 3 * a.width);
    hidden = arena.take<float>(n * a.inner);
    codes = arena.take<uint8_t>(n * widest_in);
    scales = arena.take<float>(n);
    delta = arena.take<const float*>(n);
    best_values = arena.take<float>(wanted * LANES);
    best_tokens = arena.take<int32_t>(wanted * LANES);
    deltas = arena.take<float>(n * widest_out);
  }

  Arena arena{0};
};

}  // namespace penstock
