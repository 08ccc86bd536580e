// Keys and values in 16 bits, and the attention over them.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "memory.h"
#include "simd.h"

namespace penstock {

// Positions of a block: the lanes of a vector, so that one vector holds the scores of a block.
constexpr int BLOCK = LANES;
constexpr int QUERIES = 4;  // rows of a chunk that share each load of a key or value

/// Slots of `context` positions. A slot is [block][layer][keys, values], and of a head in a layer of a block
/// keys are [width][16 positions], values [16 positions][width]. So a sequence's memory grows with its length,
/// its first n positions are one piece (a prefix is copied with one memcpy), and the heads of a layer, which are
/// read one after the other, lie one after the other.
class Cache {
 public:
  Cache(int layers, int heads, int width, int context)
      : heads_(heads), width_(width), blocks_((context + BLOCK - 1) / BLOCK) {
    head_ = static_cast<size_t>(width) * BLOCK;
    half_layer_ = head_ * heads;
    block_ = half_layer_ * 2 * layers;
    slot_bytes = rounded_up(block_ * blocks_ * sizeof(Half), PAGE);
  }

  void reserve(int slots) {
    pages_ = Pages();
    pages_ = Pages(slot_bytes * slots);
    this->slots = slots;
  }
  void clear(int slot) { pages_.forget(slot * slot_bytes, slot_bytes); }

  Half* keys(int slot, int block, int layer, int head) const {
    return pages_.at<Half>(slot * slot_bytes) + block * block_ + layer * 2 * half_layer_ + head * head_;
  }
  Half* values(int slot, int block, int layer, int head) const {
    return keys(slot, block, layer, head) + half_layer_;
  }
  char* block(int slot, int number) const { return pages_.at(slot * slot_bytes) + number * block_ * sizeof(Half); }
  size_t block_bytes() const { return block_ * sizeof(Half); }
  size_t block_stride() const { return block_; }
  size_t head_stride() const { return head_; }
  int width() const { return width_; }

  /// Keep the key and value [width] of a position.
  void keep(int slot, int position, int layer, int head, const float* key, const float* value) {
    Half* keys = this->keys(slot, position / BLOCK, layer, head) + position % BLOCK;
    Half* values = this->values(slot, position / BLOCK, layer, head) + position % BLOCK * width_;
    for (int i = 0; i < width_; i += LANES) {
      alignas(32) Half column[LANES];
      _mm256_store_si256(reinterpret_cast<__m256i*>(column), narrow(_mm512_loadu_ps(key + i)));
      for (int j = 0; j < LANES; ++j) keys[(i + j) * BLOCK] = column[j];
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(values + i), narrow(_mm512_loadu_ps(value + i)));
    }
  }

  size_t slot_bytes;
  int slots = 0;

 private:
  int heads_, width_, blocks_;
  size_t head_, half_layer_, block_;  // in Halfs: of a head's keys in a block, of a layer's keys, of a block
  Pages pages_;
};

/// scores[q][16] of QS queries, `stride` floats apart, with the 16 keys [width][16]. Four partial sums, added in a
/// fixed order, for any QS: a row has the same bits whoever shares the loads.
template <int QS>
void score_block(const float* query, size_t stride, const Half* keys, int width, Floats (&scores)[QS]) {
  Floats sum[QS][4];
#pragma GCC unroll 4
  for (int q = 0; q < QS; ++q)
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) sum[q][part] = _mm512_setzero_ps();
  for (int i = 0; i < width; i += 4) {
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      const Floats key = widen(keys + (i + part) * BLOCK);
#pragma GCC unroll 4
      for (int q = 0; q < QS; ++q)
        sum[q][part] = _mm512_fmadd_ps(key, _mm512_set1_ps(query[q * stride + i + part]), sum[q][part]);
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < QS; ++q)
    scores[q] = _mm512_add_ps(_mm512_add_ps(sum[q][0], sum[q][1]), _mm512_add_ps(sum[q][2], sum[q][3]));
}

/// out[q] [VS * 16] += sum over `count` positions of weights[q][position] * values[position].
template <int QS, int VS>
void add_values(const float* weights, size_t weight_stride, const Half* values, int width, int count, float* out,
                size_t out_stride) {
  Floats sum[QS][VS];
#pragma GCC unroll 4
  for (int q = 0; q < QS; ++q)
#pragma GCC unroll 4
    for (int v = 0; v < VS; ++v) sum[q][v] = _mm512_loadu_ps(out + q * out_stride + v * LANES);
  for (int t = 0; t < count; ++t) {
    Floats value[VS];
#pragma GCC unroll 4
    for (int v = 0; v < VS; ++v) value[v] = widen(values + t * width + v * LANES);
#pragma GCC unroll 4
    for (int q = 0; q < QS; ++q)
#pragma GCC unroll 4
      for (int v = 0; v < VS; ++v)
        sum[q][v] = _mm512_fmadd_ps(value[v], _mm512_set1_ps(weights[q * weight_stride + t]), sum[q][v]);
  }
#pragma GCC unroll 4
  for (int q = 0; q < QS; ++q)
#pragma GCC unroll 4
    for (int v = 0; v < VS; ++v) _mm512_storeu_ps(out + q * out_stride + v * LANES, sum[q][v]);
}

/// The same for any width: 64 at a time, then the rest.
template <int QS>
void add_block(const float* weights, size_t weight_stride, const Half* values, int width, int count, float* out,
               size_t out_stride) {
  int i = 0;
  for (; i + 64 <= width; i += 64)
    add_values<QS, 4>(weights, weight_stride, values + i, width, count, out + i, out_stride);
  for (; i < width; i += LANES)
    add_values<QS, 1>(weights, weight_stride, values + i, width, count, out + i, out_stride);
}

/// QS consecutive rows of a slot, the first at `position`, look back with `heads` heads from `head` on.
struct Look {
  int slot, position, layer, head, heads;
  float scale;
  const float* query;  // [QS rows, query_stride]: of `head`, the other heads follow
  size_t query_stride;
  float* out;  // [QS rows, out_stride] likewise
  size_t out_stride;
  float* scores;  // scratch [QS * heads, score_stride], a block longer than the context
  size_t score_stride;
  const Half* next;  // what will be read after this: fetched while the last values are added
};

/// Turn scores [length] into weights e^(score - largest); returns 1 / their sum. Past `length` up to the end
/// of its block weights are zero.
inline float soften(float* scores, int length) {
  Floats most = _mm512_set1_ps(-std::numeric_limits<float>::infinity()), sum = _mm512_setzero_ps();
  for (int t = 0; t < length; t += BLOCK)
    most = _mm512_mask_max_ps(most, first_lanes(length - t), most, _mm512_load_ps(scores + t));
  most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  for (int t = 0; t < length; t += BLOCK) {
    const Floats power = exponential(_mm512_sub_ps(_mm512_load_ps(scores + t), most));
    const Floats weight = _mm512_maskz_mov_ps(first_lanes(length - t), power);
    sum = _mm512_add_ps(sum, weight);
    _mm512_store_ps(scores + t, weight);
  }
  return 1.f / _mm512_reduce_add_ps(sum);
}

template <int QS>
void attend(const Cache& cache, const Look& look) {
  const int width = cache.width(), heads = look.heads, blocks = (look.position + QS - 1) / BLOCK + 1;
  const size_t to_head = cache.head_stride(), to_block = cache.block_stride();
  const Floats scale = _mm512_set1_ps(look.scale);
  const Half* first_values = cache.values(look.slot, 0, look.layer, look.head);
  const Half* keys = cache.keys(look.slot, 0, look.layer, look.head);
  for (int b = 0; b < blocks; ++b, keys += to_block) {
    const Half* next = b + 1 < blocks ? keys + to_block : first_values;
    for (int h = 0; h < heads; ++h) {
      for (size_t i = 0; i < to_head; i += LINE / sizeof(Half)) prefetch(next + h * to_head + i);
      Floats scores[QS];
      score_block<QS>(look.query + h * width, look.query_stride, keys + h * to_head, width, scores);
      for (int q = 0; q < QS; ++q)
        _mm512_store_ps(look.scores + (q * heads + h) * look.score_stride + b * BLOCK, _mm512_mul_ps(scores[q], scale));
    }
  }
  float inverse[QS * LANES];
  for (int q = 0; q < QS; ++q) {
    for (int h = 0; h < heads; ++h)
      inverse[q * heads + h] = soften(look.scores + (q * heads + h) * look.score_stride, look.position + q + 1);
    std::fill_n(look.out + q * look.out_stride, heads * width, 0.f);
  }
  const size_t weights_of_query = heads * look.score_stride;
  const Half* values = first_values;
  for (int b = 0; b < blocks; ++b, values += to_block) {
    const Half* next = b + 1 < blocks ? values + to_block : look.next;
    const int seen = look.position + 1 - b * BLOCK;  // of this block by the first query; one more by each next
    for (int h = 0; h < heads; ++h) {
      for (size_t i = 0; i < to_head; i += LINE / sizeof(Half)) prefetch(next + h * to_head + i);
      const float* weights = look.scores + h * look.score_stride + b * BLOCK;
      const Half* of_head = values + h * to_head;
      float* out = look.out + h * width;
      if (seen >= BLOCK) {
        add_block<QS>(weights, weights_of_query, of_head, width, BLOCK, out, look.out_stride);
        continue;
      }
      // never multiply what a row does not see, not even by zero: it may be NaN
      for (int q = 0; q < QS; ++q)
        add_block<1>(weights + q * weights_of_query, 0, of_head, width, std::min(seen + q, BLOCK),
                     out + q * look.out_stride, 0);
    }
  }
  for (int q = 0; q < QS; ++q)
    for (int h = 0; h < heads; ++h) {
      const Floats factor = _mm512_set1_ps(inverse[q * heads + h]);
      float* out = look.out + q * look.out_stride + h * width;
      for (int i = 0; i < width; i += LANES) _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_loadu_ps(out + i), factor));
    }
}

}  // namespace penstock
