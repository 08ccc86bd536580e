// What the machine can do at best: how fast it reads memory, and how fast it multiplies codes.
#pragma once
#include <chrono>

#include "linear.h"
#include "team.h"

namespace penstock {

inline double seconds_of(int threads, const std::function<void(Member&)>& work) {
  const auto start = std::chrono::steady_clock::now();
  Team::instance().run(threads, work);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Bytes a second that `threads` threads read together from memory no cache holds; the best of `repeats`.
inline double read_bandwidth(int threads, int repeats) {
  constexpr size_t PIECE = 1 << 18, PIECES = 1024;
  const Pages pages(PIECE * PIECES);
  std::memset(pages.at(), 1, PIECE * PIECES);
  double best = 0;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const double seconds = seconds_of(threads, [&](Member& member) {
      member.share(PIECES, [&](int piece) {
        const char* from = pages.at(piece * PIECE);
        Ints sum[4] = {};
        for (size_t i = 0; i < PIECE; i += 4 * LINE) {
#pragma GCC unroll 4
          for (int part = 0; part < 4; ++part) {
            prefetch(from + i + part * LINE + PAGE);
            sum[part] = _mm512_add_epi64(sum[part], _mm512_load_si512(from + i + part * LINE));
          }
        }
        const Ints all = _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3]));
        volatile int64_t kept = _mm512_reduce_add_epi64(all);
        static_cast<void>(kept);
      });
    });
    best = std::max(best, PIECE * PIECES / seconds);
  }
  return best;
}

/// Multiplications and additions a second of vpdpbusd alone, its operands in registers; the best of `repeats`.
inline double dot_rate(int threads, int repeats) {
  constexpr int ROUNDS = 20000, CHAINS = 24, ITEMS = 64;
  double best = 0;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const double seconds = seconds_of(threads, [&](Member& member) {
      member.share(ITEMS, [&](int item) {
        Ints sum[CHAINS] = {};
        const Ints x = _mm512_set1_epi8(static_cast<char>(item));
        for (int round = 0; round < ROUNDS; ++round) {
#pragma GCC unroll 24
          for (int chain = 0; chain < CHAINS; ++chain) {
            sum[chain] = _mm512_dpbusd_epi32(sum[chain], x, x);
            asm volatile("" : "+v"(sum[chain]));  // or the compiler sees that all chains are one
          }
        }
        Ints all = sum[0];
#pragma GCC unroll 24
        for (int chain = 1; chain < CHAINS; ++chain) all = _mm512_add_epi32(all, sum[chain]);
        volatile int kept = _mm512_reduce_add_epi32(all);
        static_cast<void>(kept);
      });
    });
    best = std::max(best, 2.0 * 64 * CHAINS * ROUNDS * ITEMS / seconds);
  }
  return best;
}

}  // namespace penstock
