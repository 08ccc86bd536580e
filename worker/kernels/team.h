// The threads of a pass: they share the items of one phase after the other, and nobody waits for a late one.
#pragma once
#include <immintrin.h>
#include <sched.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace penstock {

constexpr int MOST_THREADS = 64;

/// A count that belongs to one phase: a higher phase finds it at zero, so nothing is ever reset between phases.
class alignas(64) PhaseCount {
 public:
  /// The next number below `limit` in this phase, or -1 when there is none.
  int take(uint64_t phase, int limit) {
    uint64_t now = word_.load(std::memory_order_relaxed);
    for (;;) {
      const int next = count_in(now, phase);
      if (next >= limit) return -1;
      if (word_.compare_exchange_weak(now, packed(phase, next + 1), std::memory_order_relaxed)) return next;
    }
  }
  void add(uint64_t phase, int more) {
    uint64_t now = word_.load(std::memory_order_relaxed);
    while (!word_.compare_exchange_weak(now, packed(phase, count_in(now, phase) + more),
                                        std::memory_order_acq_rel)) {
    }
  }
  bool reached(uint64_t phase, int count) const {
    return count_in(word_.load(std::memory_order_acquire), phase) >= count;
  }

 private:
  static constexpr int BITS = 20;  // of the count; the other 44 last for years of phases
  static constexpr int OVER = 1 << BITS;
  static uint64_t packed(uint64_t phase, int count) { return phase << BITS | static_cast<uint64_t>(count); }
  static int count_in(uint64_t word, uint64_t phase) {
    const uint64_t at = word >> BITS;
    return at == phase ? static_cast<int>(word & (OVER - 1)) : at < phase ? 0 : OVER;
  }
  std::atomic<uint64_t> word_{0};
};

class Team;

/// One thread's part in a pass. All members go through the same phases in the same order.
class Member {
 public:
  Member(Team& team, int thread, int threads, uint64_t phase)
      : thread(thread), threads(threads), team_(team), phase_(phase) {}

  /// Do `item(i)` for all i below `items`, together with the others; return when all are done.
  template <class Item>
  void share(int items, Item item);

  const int thread, threads;
  uint64_t phase() const { return phase_; }

 private:
  Team& team_;
  uint64_t phase_;
};

/// Helpers that live as long as the process. A phase ends when its items are done, not when all threads have
/// come: a helper that sleeps, or whose core is taken by somebody else, is not waited for.
class Team {
 public:
  static Team& instance() {
    static Team* team = new Team;  // never destroyed: its threads may be asleep in it at exit
    return *team;
  }

  /// Run `work` on this thread and up to `threads - 1` helpers.
  void run(int threads, const std::function<void(Member&)>& work) {
    const std::lock_guard<std::mutex> only_one(running_);
    threads = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
    if (threads > 1) open(threads, work);
    Member leader(*this, 0, threads, phase_);
    work(leader);
    if (threads > 1) close();
    phase_ = leader.phase();  // only now: whoever was let in counts from where the leader began
  }

  // How often to look before giving the core away. In a phase 50, 200 and 2,000 measured alike, on a quiet machine
  // and beside a process that wants half a core; 0 costs a single row a quarter of its speed.
  static constexpr int SPINS = 200;

 private:
  friend class Member;
  static constexpr uint32_t OPEN = 1, INSIDE = 2;

  void open(int threads, const std::function<void(Member&)>& work) {
    while (static_cast<int>(helpers_.size()) < threads - 1) {
      const int thread = static_cast<int>(helpers_.size()) + 1;
      helpers_.emplace_back([this, thread, seen = round_.load()] { help(thread, seen); });
    }
    work_ = &work;
    threads_ = threads;
    gate_.fetch_or(OPEN, std::memory_order_release);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }

  /// Let nobody in any more, and wait for those inside: they only find that all is done.
  void close() {
    gate_.fetch_and(~OPEN, std::memory_order_acq_rel);
    wait([this] { return gate_.load(std::memory_order_acquire) == 0; });
  }

  void help(int thread, uint32_t seen) {
    for (;;) {
      round_.wait(seen, std::memory_order_acquire);
      seen = round_.load(std::memory_order_acquire);
      if (!enter()) continue;
      if (thread < threads_) {
        Member member(*this, thread, threads_, phase_);
        (*work_)(member);
      }
      gate_.fetch_sub(INSIDE, std::memory_order_release);
    }
  }

  bool enter() {
    uint32_t gate = gate_.load(std::memory_order_relaxed);
    while (gate & OPEN)
      if (gate_.compare_exchange_weak(gate, gate + INSIDE, std::memory_order_acq_rel)) return true;
    return false;
  }

  template <class Condition>
  void wait(Condition holds) {
    for (int spin = 0; !holds(); ++spin) {
      if (spin < SPINS)
        _mm_pause();
      else
        sched_yield();
    }
  }

  std::mutex running_;
  std::vector<std::thread> helpers_;
  std::atomic<uint32_t> round_{0};  // how many passes there were
  std::atomic<uint32_t> gate_{0};   // whether a pass is open, and how many helpers are inside
  const std::function<void(Member&)>* work_ = nullptr;
  int threads_ = 1;
  uint64_t phase_ = 0;  // the last of the passes before
  PhaseCount taken_[MOST_THREADS];
  PhaseCount done_;
};

template <class Item>
void Member::share(int items, Item item) {
  if (threads == 1) {
    for (int i = 0; i < items; ++i) item(i);
    return;
  }
  ++phase_;
  int did = 0;
  // Each has a part of its own, so that it reads on where it was; then it helps with the others' parts.
  for (int turn = 0; turn < threads; ++turn) {
    const int part = (thread + turn) % threads;
    const int begin = (items * part + threads - 1) / threads, end = (items * (part + 1) + threads - 1) / threads;
    for (int i; (i = team_.taken_[part].take(phase_, end - begin)) >= 0; ++did) item(begin + i);
  }
  if (did > 0) team_.done_.add(phase_, did);
  team_.wait([&] { return team_.done_.reached(phase_, items); });
}

}  // namespace penstock
