// Filling a model with weights, and moving its slots.
#include "model.h"

#include <stdexcept>
#include <string>

#include "step.h"

namespace penstock {

size_t Architecture::weight_bytes() const {
  size_t layer = 4 * Arena::room<float>(width);
  for (int product = 0; product < PRODUCTS; ++product) {
    const auto [out, in] = shape(product);
    layer += Linear::room(in, out);
  }
  return layers * layer + 2 * Arena::room<float>(width) + Arena::room<float>(static_cast<size_t>(context) * width) +
         (tied ? 1 : 2) * Linear::room(width, vocab);
}

Model::Model(Architecture architecture)
    : architecture_(std::move(architecture)),
      arena_(architecture_.weight_bytes()),
      layers_(architecture_.layers),
      cache_(architecture_.layers, architecture_.heads, architecture_.width / architecture_.heads,
             architecture_.context),
      workspace_(std::make_shared<Workspace>()) {}

void Model::set_product(int layer, int product, const int8_t* codes, const float* scales, const float* bias,
                        float input_scale) {
  const auto [out, in] = architecture_.shape(product);
  layers_.at(layer).products[product] = pack(arena_, in, out, codes, scales, bias, input_scale);
}

void Model::set_norm(int number, const float* weight, const float* bias) {
  const int layer = number / 2, width = architecture_.width;
  Norm& norm = layer == architecture_.layers ? last_norm_
               : number % 2 == 0             ? layers_.at(layer).before_attention
                                             : layers_.at(layer).before_mlp;
  norm = {arena_.take<float>(width), arena_.take<float>(width)};
  std::copy_n(weight, width, norm.weight);
  std::copy_n(bias, width, norm.bias);
}

void Model::set_positions(const float* positions) {
  const size_t count = static_cast<size_t>(architecture_.context) * architecture_.width;
  positions_ = arena_.take<float>(count);
  std::copy_n(positions, count, positions_);
}

void Model::set_tokens(const int8_t* codes, const float* scales, float input_scale) {
  tokens_ = pack(arena_, architecture_.width, architecture_.vocab, codes, scales, nullptr, input_scale);
  if (architecture_.tied) head_ = tokens_;
}

void Model::set_head(const int8_t* codes, const float* scales, float input_scale) {
  head_ = pack(arena_, architecture_.width, architecture_.vocab, codes, scales, nullptr, input_scale);
}

void Model::clear(int slot) {
  if (slot < 0 || slot >= cache_.slots) throw std::out_of_range("there is no slot " + std::to_string(slot));
  cache_.clear(slot);
}

int Model::adapt(Adapter adapter) {
  int number = 0;
  while (adapters_.count(number) > 0) ++number;
  adapters_.emplace(number, std::move(adapter));
  return number;
}

/// A move whose target nobody has still to read can be made at once. When there is none left, only cycles are:
/// one of their slots is put aside, which frees the rest of its cycle.
void Model::copy(const std::vector<std::pair<int, int>>& moves, const std::vector<int>& positions, int threads) {
  struct Move {
    int source, target;  // source -1: what was put aside
    int blocks;
  };
  std::vector<Move> pending;
  for (size_t i = 0; i < moves.size(); ++i) {
    const auto [source, target] = moves[i];
    for (const int slot : {source, target})
      if (slot < 0 || slot >= cache_.slots) throw std::out_of_range("there is no slot " + std::to_string(slot));
    if (positions.at(i) < 0 || positions[i] > architecture_.context)
      throw std::out_of_range("a slot has no " + std::to_string(positions[i]) + " positions");
    if (source != target) pending.push_back({source, target, (positions[i] + BLOCK - 1) / BLOCK});
  }
  const auto move_blocks = [&](char* to, const char* from, int blocks) {
    Team::instance().run(threads, [&](Member& member) {
      member.share(blocks, [&](int block) {
        const size_t start = block * cache_.block_bytes();
        std::memcpy(to + start, from + start, cache_.block_bytes());
      });
    });
  };
  while (!pending.empty()) {
    const auto is_read = [&](int slot) {
      return std::any_of(pending.begin(), pending.end(), [&](const Move& other) { return other.source == slot; });
    };
    const auto free = std::find_if(pending.begin(), pending.end(), [&](const Move& m) { return !is_read(m.target); });
    if (free != pending.end()) {
      const char* from = free->source < 0 ? scratch_.at() : cache_.block(free->source, 0);
      move_blocks(cache_.block(free->target, 0), from, free->blocks);
      pending.erase(free);
      continue;
    }
    const int aside = pending.front().target;
    int blocks = 0;
    for (Move& move : pending)
      if (move.source == aside) {
        blocks = std::max(blocks, move.blocks);
        move.source = -1;
      }
    if (scratch_.empty()) scratch_ = Pages(cache_.slot_bytes);
    move_blocks(scratch_.at(), cache_.block(aside, 0), blocks);
  }
}

}  // namespace penstock
