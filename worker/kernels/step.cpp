// One pass of flat rows through the network: one parallel region, phases one after the other.
#include "step.h"

#include <chrono>
#include <numeric>
#include <stdexcept>
#include <string>

namespace penstock {

namespace {

/// Consecutive rows of one slot, with some of the heads: an item of the attention. One thread keeps their keys
/// and values and then looks back over them, so that no other needs to wait for it.
struct Run {
  int row, count, head, heads;
};

/// Decoding rows take a few heads each, so that one row alone occupies all threads; a chunk takes one head at a
/// time, as its work per head is large.
std::vector<Run> cut_into_runs(const Pass& pass, int heads, int threads) {
  const int groups = std::max((heads + MOST_HEADS - 1) / MOST_HEADS, std::min(heads, threads));
  const int rows = static_cast<int>(pass.slots.size());
  std::vector<Run> runs;
  for (int row = 0, end; row < rows; row = end) {
    end = row + 1;
    const auto goes_on = [&] {
      return pass.slots[end] == pass.slots[row] && pass.positions[end] == pass.positions[end - 1] + 1;
    };
    while (end < rows && goes_on()) ++end;
    const int parts = end - row > 1 ? heads : groups;
    for (int part = 0; part < parts; ++part) {
      const int head = heads * part / parts;
      runs.push_back({row, end - row, head, heads * (part + 1) / parts - head});
    }
  }
  return runs;
}

}  // namespace

/// What the threads of one pass share.
class Step {
 public:
  Step(Model& model, const Pass& pass, int threads)
      : model_(model), pass_(pass), a_(model.architecture_), w_(*model.workspace_),
        rows_(static_cast<int>(pass.tokens.size())), wanted_(static_cast<int>(pass.wanted.size())),
        threads_(threads), runs_(cut_into_runs(pass, a_.heads, threads)), every_(rows_), places_(rows_, -1) {
    w_.fit(a_, rows_, wanted_, threads);
    std::iota(every_.begin(), every_.end(), 0);
    for (int i = 0; i < wanted_; ++i) places_[pass.wanted[i]] = i;
  }

  /// What one thread does.
  void work(Member& member) {
    Clock clock(member.thread == 0 ? model_.times : nullptr);
    member.share(rows_, [&](int row) { embed(row); });
    clock.mark(EMBED);
    for (int layer = 0; layer < a_.layers; ++layer) {
      const bool last = layer + 1 == a_.layers;
      attention_in(member, clock, layer);
      // of the last layer only keys and values are kept of rows that nobody asks for
      const Live live = last ? Live{wanted_, w_.chosen, pass_.wanted.data()} : Live{rows_, w_.x, every_.data()};
      const int* places = last ? places_.data() : every_.data();
      member.share(static_cast<int>(runs_.size()), [&](int i) { attend_run(member.thread, layer, i, places); });
      if (last) member.share(wanted_, [&](int i) { choose_row(i); });
      clock.mark(ATTENTION);
      if (live.rows == 0) return;
      rest_of_layer(member, clock, layer, live);
    }
    head(member, clock);
  }

 private:
  /// The rows that go on, and which of the pass each is.
  struct Live {
    int rows;
    float* x;  // [rows, width]
    const int* source;
  };

  /// Adds up the time between marks.
  class Clock {
   public:
    explicit Clock(std::array<double, PARTS>* times) : times_(times) {
      if (times_ != nullptr) last_ = std::chrono::steady_clock::now();
    }
    void mark(Part part) {
      if (times_ == nullptr) return;
      const auto now = std::chrono::steady_clock::now();
      (*times_)[part] += std::chrono::duration<double>(now - last_).count();
      last_ = now;
    }

   private:
    std::array<double, PARTS>* times_;
    std::chrono::steady_clock::time_point last_;
  };

  float* row_of(float* rows, int row) const { return rows + static_cast<size_t>(row) * a_.width; }

  void embed(int row) {
    float* x = row_of(w_.x, row);
    unpack_row(model_.tokens_, pass_.tokens[row], x);
    const float* position = row_of(model_.positions_, pass_.positions[row]);
    for (int i = 0; i < a_.width; i += LANES)
      _mm512_storeu_ps(x + i, _mm512_add_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(position + i)));
  }

  void choose_row(int i) { std::copy_n(row_of(w_.x, pass_.wanted[i]), a_.width, row_of(w_.chosen, i)); }

  const float* normalized(const Norm& norm, float* x, int row) {
    layer_norm(row_of(x, row), norm.weight, norm.bias, a_.epsilon, a_.width, row_of(w_.normed, row));
    return row_of(w_.normed, row);
  }

  /// One of a layer's products: `input(row)` points to a row's input in floats, `finish(row, column, y)` takes 16
  /// results. All outputs are multiples of 16 wide.
  template <class Input, class Finish>
  void product(Member& member, Clock& clock, int layer, Product which, const Live& live, Input input, Finish finish) {
    const Linear& linear = model_.layers_[layer].products[which];
    const Codes codes{live.rows, linear.in, w_.codes, w_.scales};
    member.share(live.rows, [&](int row) {
      const float* x = input(row);
      w_.scales[row] = quantize(x, linear.in, linear.input_scale, codes.row(row));
      w_.delta[row] = adapted(layer, which, live.source[row], row, x, linear);
    });
    clock.mark(NORMS);
    member.share(linear.panels, [&](int panel) {
      multiply_panel(linear, panel, codes, [&](int row, int column, Mask live, Floats y) {
        if (live == 0) return;
        if (w_.delta[row] != nullptr) y = _mm512_add_ps(y, _mm512_loadu_ps(w_.delta[row] + column));
        finish(row, column, y);
      });
    });
    constexpr Part PART[PRODUCTS] = {QKV, OUT, INTO_MLP, OUT_OF_MLP};
    clock.mark(PART[which]);
  }

  /// What the adapter of a row adds to a product, or null.
  const float* adapted(int layer, Product which, int source, int row, const float* x, const Linear& linear) {
    if (pass_.adapters.empty() || pass_.adapters[source] < 0) return nullptr;
    const LowRank& low_rank = model_.adapters_.at(pass_.adapters[source]).layers[layer][which];
    if (low_rank.rank == 0) return nullptr;
    float* delta = w_.deltas + static_cast<size_t>(row) * std::max(3 * a_.width, a_.inner);
    low_rank.apply(x, linear.in, linear.out, delta);
    return delta;
  }

  void attention_in(Member& member, Clock& clock, int layer) {
    const int width = 3 * a_.width;
    product(
        member, clock, layer, QUERY_KEY_VALUE, {rows_, w_.x, every_.data()},
        [&](int row) { return normalized(model_.layers_[layer].before_attention, w_.x, row); },
        [&](int row, int column, Floats y) {
          _mm512_storeu_ps(w_.qkv + static_cast<size_t>(row) * width + column, y);
        });
  }

  /// Keep the keys and values of a run; then let those of its rows look back that have a place in `attended`.
  void attend_run(int thread, int layer, int number, const int* places) {
    const Run& run = runs_[number];
    const Run& after = number + 1 < static_cast<int>(runs_.size()) ? runs_[number + 1] : run;
    const Half* next = model_.cache_.keys(pass_.slots[after.row], 0, layer, after.head);
    const int head_width = a_.width / a_.heads, stride = 3 * a_.width, end = run.row + run.count;
    for (int row = run.row; row < end; ++row)
      for (int head = run.head; head < run.head + run.heads; ++head) {
        const float* key = w_.qkv + static_cast<size_t>(row) * stride + a_.width + head * head_width;
        model_.cache_.keep(pass_.slots[row], pass_.positions[row], layer, head, key, key + a_.width);
      }
    for (int row = run.row, together; row < end; row += together) {
      together = row + QUERIES <= end && places[row] >= 0 && places[row + QUERIES - 1] == places[row] + QUERIES - 1
                     ? QUERIES : 1;
      if (places[row] < 0) continue;
      const size_t first = run.head * head_width;
      const Look look{pass_.slots[row], pass_.positions[row], layer, run.head, run.heads, a_.attention_scales[layer],
                      w_.qkv + static_cast<size_t>(row) * stride + first, static_cast<size_t>(stride),
                      row_of(w_.attended, places[row]) + first, static_cast<size_t>(a_.width),
                      w_.scores.at<float>(thread * w_.thread_scores), w_.score_stride, next};
      together == 1 ? attend<1>(model_.cache_, look) : attend<QUERIES>(model_.cache_, look);
    }
  }

  void rest_of_layer(Member& member, Clock& clock, int layer, const Live& live) {
    const auto add_to_x = [&](int row, int column, Floats y) {
      float* x = row_of(live.x, row) + column;
      _mm512_storeu_ps(x, _mm512_add_ps(_mm512_loadu_ps(x), y));
    };
    product(member, clock, layer, ATTENTION_OUT, live, [&](int row) { return row_of(w_.attended, row); }, add_to_x);
    product(
        member, clock, layer, MLP_IN, live,
        [&](int row) { return normalized(model_.layers_[layer].before_mlp, live.x, row); },
        [&](int row, int column, Floats y) { _mm512_storeu_ps(hidden(row) + column, gelu(y)); });
    product(member, clock, layer, MLP_OUT, live, [&](int row) { return hidden(row); }, add_to_x);
  }

  float* hidden(int row) const { return w_.hidden + static_cast<size_t>(row) * a_.inner; }

  void head(Member& member, Clock& clock) {
    const Linear& linear = model_.head_;
    const Codes codes{wanted_, linear.in, w_.codes, w_.scales};
    member.share(wanted_, [&](int row) {
      const float* x = normalized(model_.last_norm_, w_.chosen, row);
      w_.scales[row] = quantize(x, linear.in, linear.input_scale, codes.row(row));
      for (int thread = 0; thread < threads_; ++thread) {
        _mm512_storeu_ps(best_values(thread, row), _mm512_set1_ps(-INFINITY));
        _mm512_storeu_si512(best_tokens(thread, row), _mm512_set1_epi32(INT32_MAX));
      }
    });
    clock.mark(NORMS);
    member.share(linear.panels, [&](int panel) {
      if (pass_.logits != nullptr)
        multiply_panel(linear, panel, codes, [&](int row, int column, Mask live, Floats y) {
          _mm512_mask_storeu_ps(pass_.logits + static_cast<size_t>(row) * a_.vocab + column, live, y);
        });
      else
        multiply_panel(linear, panel, codes, [&](int row, int column, Mask live, Floats y) {
          keep_best(member.thread, row, column, live, y);
        });
    });
    if (pass_.logits == nullptr) member.share(wanted_, [&](int row) { choose(row); });
    clock.mark(HEAD);
  }

  float* best_values(int thread, int row) { return w_.best_values + (thread * wanted_ + row) * LANES; }
  int32_t* best_tokens(int thread, int row) { return w_.best_tokens + (thread * wanted_ + row) * LANES; }

  /// The best of each lane, and of equal ones the lowest token: a thread that helps out goes back in the vocabulary.
  void keep_best(int thread, int row, int column, Mask live, Floats y) {
    const Floats best = _mm512_loadu_ps(best_values(thread, row));
    const Mask candidate = _mm512_mask_cmp_ps_mask(live, y, best, _CMP_GE_OQ);  // never with NaN
    if (candidate == 0) return;
    const Ints tokens = _mm512_loadu_si512(best_tokens(thread, row));
    const Ints lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const Ints token = _mm512_add_epi32(_mm512_set1_epi32(column), lanes);
    const Mask better = _mm512_mask_cmp_ps_mask(candidate, y, best, _CMP_GT_OQ) |
                        _mm512_mask_cmplt_epi32_mask(candidate, token, tokens);
    _mm512_storeu_ps(best_values(thread, row), _mm512_mask_mov_ps(best, better, y));
    _mm512_storeu_si512(best_tokens(thread, row), _mm512_mask_mov_epi32(tokens, better, token));
  }

  /// The best over lanes and threads. A row that is not finite has no best: all comparisons with NaN fail.
  void choose(int row) {
    float value = -INFINITY;
    int32_t token = INT32_MAX;
    for (int thread = 0; thread < threads_; ++thread)
      for (int lane = 0; lane < LANES; ++lane) {
        const float other = best_values(thread, row)[lane];
        const int32_t its = best_tokens(thread, row)[lane];
        if (other > value || (other == value && its < token)) value = other, token = its;
      }
    pass_.finite[row] = std::isfinite(value) && std::isfinite(w_.scales[row]);
    pass_.best[row] = pass_.finite[row] ? token : 0;
  }

  Model& model_;
  const Pass& pass_;
  const Architecture& a_;
  Model::Workspace& w_;
  const int rows_, wanted_, threads_;
  const std::vector<Run> runs_;
  std::vector<int> every_, places_;  // place of each row among all; among the wanted, -1: not wanted
};

void Model::check(const Pass& pass) const {
  const auto within = [](const std::vector<int>& numbers, int limit, const char* what) {
    for (const int number : numbers)
      if (number < 0 || number >= limit)
        throw std::out_of_range(std::string(what) + " " + std::to_string(number) + " is not below " +
                                std::to_string(limit));
  };
  const size_t rows = pass.tokens.size();
  if (pass.slots.size() != rows || pass.positions.size() != rows ||
      (!pass.adapters.empty() && pass.adapters.size() != rows))
    throw std::invalid_argument("tokens, slots, positions and adapters must be of one length");
  within(pass.tokens, architecture_.vocab, "token");
  within(pass.slots, cache_.slots, "slot");
  within(pass.positions, architecture_.context, "position");
  within(pass.wanted, static_cast<int>(rows), "wanted row");
  for (size_t i = 1; i < pass.wanted.size(); ++i)
    if (pass.wanted[i] <= pass.wanted[i - 1]) throw std::invalid_argument("wanted rows must ascend");
  for (const int adapter : pass.adapters)
    if (adapter >= 0 && adapters_.count(adapter) == 0)
      throw std::out_of_range("there is no adapter " + std::to_string(adapter));
}

void Model::run(const Pass& pass, int threads) {
  check(pass);
  threads = std::clamp(threads, 1, MOST_THREADS);
  Step step(*this, pass, threads);
  Team::instance().run(threads, [&](Member& member) { step.work(member); });
}

}  // namespace penstock
