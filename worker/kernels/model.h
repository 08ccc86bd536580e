// A GPT-2 with its weights, its slots and its adapters: what Python holds.
#pragma once
#include <array>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "attention.h"
#include "linear.h"
#include "lowrank.h"
#include "team.h"

namespace penstock {

enum Product { QUERY_KEY_VALUE, ATTENTION_OUT, MLP_IN, MLP_OUT, PRODUCTS };

struct Architecture {
  int layers, width, heads, inner, vocab, context;
  float epsilon;
  bool tied;                            // the head is the embedding
  std::vector<float> attention_scales;  // of each layer

  /// [out, in] of a layer's product.
  std::pair<int, int> shape(int product) const {
    const std::pair<int, int> shapes[PRODUCTS] = {{3 * width, width}, {width, width}, {inner, width}, {width, inner}};
    return shapes[product];
  }
  size_t weight_bytes() const;
};

struct Norm {
  float *weight, *bias;  // [width]
};

struct Layer {
  Norm before_attention, before_mlp;
  Linear products[PRODUCTS];
};

struct Adapter {
  std::vector<std::array<LowRank, PRODUCTS>> layers;
};

/// What goes through in one pass: flat rows, and what is wanted of them.
struct Pass {
  std::vector<int> tokens, slots, positions;
  std::vector<int> adapters;  // of each row, -1: none; may be empty
  std::vector<int> wanted;    // rows, ascending
  float* logits;              // [wanted, vocab], or null: the best token of each and whether it is finite
  int64_t* best;              // [wanted]
  bool* finite;               // [wanted]
};

/// Where the time of a pass goes.
enum Part { EMBED, NORMS, QKV, ATTENTION, OUT, INTO_MLP, OUT_OF_MLP, HEAD, PARTS };

class Model {
 public:
  explicit Model(Architecture architecture);

  void set_product(int layer, int product, const int8_t* codes, const float* scales, const float* bias,
                   float input_scale);
  void set_norm(int number, const float* weight, const float* bias);  // two a layer, then the last
  void set_positions(const float* positions);
  void set_tokens(const int8_t* codes, const float* scales, float input_scale);
  void set_head(const int8_t* codes, const float* scales, float input_scale);

  void reserve(int slots) { cache_.reserve(slots); }
  void clear(int slot);
  void copy(const std::vector<std::pair<int, int>>& moves, const std::vector<int>& positions, int threads);
  void run(const Pass& pass, int threads);
  int adapt(Adapter adapter);
  void forget(int adapter) { adapters_.erase(adapter); }

  size_t slot_bytes() const { return cache_.slot_bytes; }
  const Architecture& architecture() const { return architecture_; }

  std::array<double, PARTS>* times = nullptr;  // seconds, added to by each pass when not null

 private:
  friend class Step;
  void check(const Pass& pass) const;

  Architecture architecture_;
  Arena arena_;
  std::vector<Layer> layers_;
  Norm last_norm_;
  float* positions_;  // [context, width]
  Linear tokens_{}, head_{};
  Cache cache_;
  Pages scratch_;  // one slot, while slots are permuted
  std::map<int, Adapter> adapters_;
  struct Workspace;
  std::shared_ptr<Workspace> workspace_;
};

}  // namespace penstock
