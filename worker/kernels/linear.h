// Products of int8: how weights are packed, and how rows are multiplied with them.
//
// y[row, out] = row_scale[row] * scale[out] * sum_in code[row, in] * weight[out, in] + bias[out]. The sum is an
// exact integer, so a row has the same bits alone and in company.
#pragma once
#include <cstring>

#include "memory.h"
#include "norm.h"
#include "simd.h"

namespace penstock {

// A tile is 8 rows x 48 columns: its 24 sums, 3 vectors of weights and one of input fill the 32 registers, and
// each vector that is loaded is used 3 or 8 times.
constexpr int TILE = 8, PANEL = 48, VECTORS = PANEL / LANES;
constexpr int TOGETHER = 4;  // inputs that vpdpbusd multiplies and adds up in each lane

/// A weight [out, in] in panels of 48 outputs. A panel is [in / 4][48][4], so that a tile reads it from front to
/// back, and a thread that does one panel after the other reads memory from front to back.
struct Linear {
  int in, out, panels;
  float input_scale;   // 0: each row of input has its own
  int8_t* codes;       // [panels][in / 4][48][4]; columns past `out` are zero
  float* scales;       // [panels * 48]
  float* bias;         // [panels * 48]
  int32_t* beginning;  // [panels * 48] where a sum starts: -ZERO * (sum of the column), as the input has ZERO on top

  const int8_t* panel(int number) const { return codes + static_cast<size_t>(number) * PANEL * in; }

  static size_t room(int in, int out) {
    const size_t columns = rounded_up(out, PANEL);
    return Arena::room<int8_t>(columns * in) + 3 * Arena::room<float>(columns);
  }
};

/// Pack codes [out, in] with scales [out] and bias [out], which may be null.
inline Linear pack(Arena& arena, int in, int out, const int8_t* codes, const float* scales, const float* bias,
                   float input_scale) {
  const int panels = (out + PANEL - 1) / PANEL, columns = panels * PANEL;
  Linear linear{in, out, panels, input_scale, arena.take<int8_t>(static_cast<size_t>(columns) * in),
                arena.take<float>(columns), arena.take<float>(columns), arena.take<int32_t>(columns)};
  for (int column = 0; column < out; ++column) {
    const int8_t* from = codes + static_cast<size_t>(column) * in;
    int8_t* to = linear.codes + static_cast<size_t>(column / PANEL) * PANEL * in + column % PANEL * TOGETHER;
    int32_t sum = 0;
    for (int i = 0; i < in; ++i) sum += from[i];
    for (int i = 0; i < in; i += TOGETHER) std::memcpy(to + static_cast<size_t>(i) * PANEL, from + i, TOGETHER);
    linear.scales[column] = scales[column];
    linear.bias[column] = bias == nullptr ? 0.f : bias[column];
    linear.beginning[column] = -ZERO * sum;
  }
  return linear;
}

/// Row `row` of a packed weight, as floats: the look-up of a tied embedding.
inline void unpack_row(const Linear& linear, int row, float* to) {
  const int8_t* from = linear.panel(row / PANEL) + row % PANEL * TOGETHER;
  for (int i = 0; i < linear.in; i += TOGETHER)
    for (int j = 0; j < TOGETHER; ++j)
      to[i + j] = static_cast<float>(from[static_cast<size_t>(i) * PANEL + j]) * linear.scales[row];
}

/// Quantized input of a product.
struct Codes {
  int rows, width;
  uint8_t* codes;  // [rows, width], ZERO on top
  float* scales;   // [rows]

  uint8_t* row(int number) const { return codes + static_cast<size_t>(number) * width; }
};

/// The sums [ROWS, 48] of a tile. LINES cache lines from `ahead` on are fetched for each 192 bytes multiplied.
/// All loops over the sums must be unrolled: one that is not puts them into memory and halves the speed.
template <int ROWS, int LINES>
void multiply_tile(const uint8_t* input, int in, const int8_t* panel, const int32_t* beginning, const int8_t* ahead,
                   int32_t* sums) {
  Ints sum[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; ++v) sum[r][v] = _mm512_loadu_si512(beginning + v * LANES);
  for (int i = 0; i < in; i += TOGETHER, panel += PANEL * TOGETHER, ahead += LINES * LINE) {
    const Ints w0 = _mm512_load_si512(panel), w1 = _mm512_load_si512(panel + LINE),
               w2 = _mm512_load_si512(panel + 2 * LINE);
#pragma GCC unroll 3
    for (int line = 0; line < LINES; ++line) prefetch(ahead + line * LINE);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      int32_t four;
      std::memcpy(&four, input + static_cast<size_t>(r) * in + i, TOGETHER);
      const Ints x = _mm512_set1_epi32(four);
      sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], x, w0);
      sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], x, w1);
      sum[r][2] = _mm512_dpbusd_epi32(sum[r][2], x, w2);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; ++v) _mm512_store_si512(sums + r * PANEL + v * LANES, sum[r][v]);
}

using MultiplyTile = void (*)(const uint8_t*, int, const int8_t*, const int32_t*, const int8_t*, int32_t*);
template <int LINES>
constexpr MultiplyTile MULTIPLY_TILE[TILE + 1] = {
    nullptr,                 multiply_tile<1, LINES>, multiply_tile<2, LINES>,
    multiply_tile<3, LINES>, multiply_tile<4, LINES>, multiply_tile<5, LINES>,
    multiply_tile<6, LINES>, multiply_tile<7, LINES>, multiply_tile<8, LINES>};

/// All rows times one panel. `finish(row, column, live, y)` gets the 16 results from `column` on, those of the
/// lanes in `live`.
template <class Finish>
void multiply_panel(const Linear& linear, int number, const Codes& input, Finish finish) {
  const int8_t* panel = linear.panel(number);
  const int in = linear.in, column = number * PANEL;
  Floats scale[VECTORS], bias[VECTORS];
  Mask live[VECTORS];
  for (int v = 0; v < VECTORS; ++v) {
    scale[v] = _mm512_loadu_ps(linear.scales + column + v * LANES);
    bias[v] = _mm512_loadu_ps(linear.bias + column + v * LANES);
    live[v] = first_lanes(linear.out - column - v * LANES);
  }
  alignas(LINE) int32_t sums[TILE * PANEL];
  const int tiles = (input.rows + TILE - 1) / TILE;  // of equal size: 5 + 4 rows are faster than 8 + 1
  for (int tile = 0; tile < tiles; ++tile) {
    const int first = input.rows * tile / tiles, rows = input.rows * (tile + 1) / tiles - first;
    const int32_t* beginning = linear.beginning + column;
    if (tiles == 1) {  // bound by memory: fetch what this very tile needs soon
      MULTIPLY_TILE<3>[rows](input.row(0), in, panel, beginning, panel + PAGE, sums);
    } else if (tile < VECTORS) {  // the first three tiles fetch a third each of the next panel
      const int8_t* ahead = panel + static_cast<size_t>(PANEL) * in + static_cast<size_t>(tile) * LANES * in;
      MULTIPLY_TILE<1>[rows](input.row(first), in, panel, beginning, ahead, sums);
    } else {
      MULTIPLY_TILE<0>[rows](input.row(first), in, panel, beginning, panel, sums);
    }
    for (int r = 0; r < rows; ++r) {
      const Floats row_scale = _mm512_set1_ps(input.scales[first + r]);
      for (int v = 0; v < VECTORS; ++v) {
        const Floats sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + r * PANEL + v * LANES));
        const Floats y = _mm512_fmadd_ps(sum, _mm512_mul_ps(row_scale, scale[v]), bias[v]);
        finish(first + r, column + v * LANES, live[v], y);
      }
    }
  }
}

}  // namespace penstock
