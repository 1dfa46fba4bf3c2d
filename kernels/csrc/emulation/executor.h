// Runs the blocks of a launch one after the other, each thread of a block as a fiber.
//
// A fiber runs until it meets others at a collective; the last to arrive does the work for all. Which fiber runs next
// is drawn by the seed, so that a missing barrier shows in some order. Errors end the launch and come back as text.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "fiber.h"
#include "shared.h"

namespace foldase::emulation {

constexpr int kMaxThreads = 1024;

// An interval of global memory that the kernel may touch.
struct Region {
  std::uintptr_t begin;
  std::uintptr_t end;
  bool writable;
};

struct PendingCopy {
  void* to;
  const void* from;
  int group;
};

struct Thread {
  Context context;
  bool finished = false;
  int group = 0;  // of the copies issued since the last commit
  std::vector<PendingCopy> copies;
};

// Where the lanes of a warp, or the threads of a block, come together.
struct Meeting {
  const char* kind = nullptr;
  Source source{"", 0};
  int arrived = 0;
  std::vector<void*> operands;
};

class Executor {
 public:
  Executor(std::uint64_t seed, std::vector<Region> regions)
      : regions_(std::move(regions)), random_(seed), order_(static_cast<Order>(seed % 4)) {}

  // Throws Failure with the first error of any block.
  void launch(std::int64_t blocks, int threads, std::size_t shared_bytes, const std::function<void()>& kernel) {
    if (threads < 1 || threads > kMaxThreads || threads % kLanes != 0) {
      throw Failure("a block of " + std::to_string(threads) + " threads cannot be emulated");
    }
    kernel_ = &kernel;
    blocks_ = blocks;
    warps_ = threads / kLanes;
    while (static_cast<int>(stacks_.size()) < threads) stacks_.push_back(std::make_unique<Stack>());
    std::vector<std::int64_t> sequence(static_cast<std::size_t>(blocks));
    std::iota(sequence.begin(), sequence.end(), 0);
    if (order_ != Order::ascending) std::shuffle(sequence.begin(), sequence.end(), random_);
    Executor* outer = active();
    active() = this;
    for (const std::int64_t block : sequence) {
      run_block(block, threads, shared_bytes);
      if (!failure_.empty()) break;
    }
    active() = outer;
    if (!failure_.empty()) throw Failure(failure_);
  }

  static Executor*& active() {
    static thread_local Executor* executor = nullptr;
    return executor;
  }

  int thread() const { return current_; }
  int warp() const { return current_ / kLanes; }
  std::int64_t block() const { return block_; }
  std::int64_t blocks() const { return blocks_; }
  SharedMemory& shared() { return shared_; }
  Accessor accessor(Source source) const { return {current_, false, source}; }

  // All lanes of the warp give an operand; `act` gets the 32 of them when the last has come.
  template <class Act>
  void meet_warp(const char* kind, Source source, void* operand, Act act) {
    meet(warp_meetings_[static_cast<std::size_t>(warp())], kLanes, current_ % kLanes, kind, source, operand, act);
  }

  template <class Act>
  void meet_block(const char* kind, Source source, Act act) {
    meet(block_meeting_, warps_ * kLanes, current_, kind, source, nullptr, act);
  }

  void check_global(const void* address, std::size_t bytes, bool write, Source source) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(address);
    const char* name = write ? "global write" : "global read";
    if (begin % bytes != 0) fail(std::string(name) + " is misaligned", source);
    for (const Region& region : regions_) {
      if (begin >= region.begin && begin + bytes <= region.end && (region.writable || !write)) return;
    }
    fail(std::string(name) + " of " + std::to_string(bytes) + " bytes outside of every tensor", source);
  }

  void issue_copy(void* to, const void* from, Source source) {
    shared_.begin_copy(to, 16, accessor(source));
    self().copies.push_back({to, from, self().group});
  }

  void commit_copies() { ++self().group; }

  // Lands the copies of all but the latest `left` committed groups.
  void wait_copies(int left, Source source) {
    Thread& thread = self();
    std::vector<PendingCopy> kept;
    for (const PendingCopy& copy : thread.copies) {
      if (copy.group < thread.group - left) {
        shared_.land_copy(copy.to, copy.from, 16, accessor(source));
      } else {
        kept.push_back(copy);
      }
    }
    thread.copies.swap(kept);
  }

  [[noreturn]] void fail(const std::string& what, Source source) const {
    throw Failure(what + " (" + describe_thread(current_) + ", " + describe(source) + ")");
  }

 private:
  // Which of the threads that can go on goes on.
  enum class Order { ascending, descending, any_lane, one_warp_at_a_time };

  Thread& self() { return threads_[static_cast<std::size_t>(current_)]; }

  void run_block(std::int64_t block, int threads, std::size_t shared_bytes) {
    block_ = block;
    shared_.reset(shared_bytes, warps_);
    threads_.assign(static_cast<std::size_t>(threads), Thread{});
    warp_meetings_.assign(static_cast<std::size_t>(warps_), Meeting{});
    block_meeting_ = Meeting{};
    ready_.fill(0);
    for (int index = 0; index < threads; ++index) {
      threads_[static_cast<std::size_t>(index)].context.prepare(*stacks_[static_cast<std::size_t>(index)], &enter);
      make_ready(index);
    }
    int last_warp = 0;
    while (failure_.empty()) {
      current_ = choose(last_warp);
      if (current_ < 0) break;
      last_warp = warp();
      ready_[static_cast<std::size_t>(warp())] &= ~(1u << (current_ % kLanes));
      home_.switch_to(self().context);
    }
    if (failure_.empty()) failure_ = unfinished();
    if (!failure_.empty()) failure_ = "block " + std::to_string(block_) + ": " + failure_;
  }

  // The bottom frame of every fiber. It never returns: there is nothing to return to.
  static void enter() {
    Executor* executor = active();
    Context::arrived(executor->home_);
    try {
      (*executor->kernel_)();
      if (!executor->self().copies.empty()) {
        executor->fail("returned with asynchronous copies in flight", {"kernel", 0});
      }
    } catch (const Failure& failure) {
      executor->failure_ = failure.what();
    }
    executor->self().finished = true;
    executor->self().context.switch_to(executor->home_);
  }

  template <class Act>
  void meet(Meeting& meeting, int expected, int place, const char* kind, Source source, void* operand, Act act) {
    if (meeting.arrived == 0) {
      meeting.kind = kind;
      meeting.source = source;
      meeting.operands.assign(static_cast<std::size_t>(expected), nullptr);
    } else if (meeting.source.line != source.line || std::strcmp(meeting.kind, kind) != 0) {
      fail(std::string(kind) + " here, while others wait in " + meeting.kind + " at " + describe(meeting.source), source);
    }
    meeting.operands[static_cast<std::size_t>(place)] = operand;
    if (++meeting.arrived == expected) {
      act(meeting.operands);
      meeting.arrived = 0;
      const int first = current_ - place;
      for (int index = first; index < first + expected; ++index) make_ready(index);
    }
    self().context.switch_to(home_);
  }

  void make_ready(int thread) { ready_[static_cast<std::size_t>(thread / kLanes)] |= 1u << (thread % kLanes); }

  // The next thread to run, or -1 when none can.
  int choose(int last_warp) {
    const auto drawn = static_cast<std::uint32_t>(random_());
    int start = 0;
    if (order_ == Order::any_lane) start = static_cast<int>((drawn >> 8) % static_cast<std::uint32_t>(warps_));
    if (order_ == Order::descending) start = warps_ - 1;
    if (order_ == Order::one_warp_at_a_time) {
      const bool stay = ready_[static_cast<std::size_t>(last_warp)] != 0;
      start = stay ? last_warp : static_cast<int>((drawn >> 8) % static_cast<std::uint32_t>(warps_));
    }
    const int step = order_ == Order::descending ? warps_ - 1 : 1;
    for (int tried = 0; tried < warps_; ++tried) {
      const int warp = (start + tried * step) % warps_;
      const std::uint32_t lanes = ready_[static_cast<std::size_t>(warp)];
      if (lanes != 0) return warp * kLanes + choose_lane(lanes, drawn % kLanes);
    }
    return -1;
  }

  int choose_lane(std::uint32_t lanes, std::uint32_t drawn) const {
    if (order_ == Order::ascending) return __builtin_ctz(lanes);
    if (order_ == Order::descending) return 31 - __builtin_clz(lanes);
    const std::uint32_t turned = (lanes >> drawn) | (drawn == 0 ? 0 : lanes << (32 - drawn));
    return static_cast<int>((static_cast<std::uint32_t>(__builtin_ctz(turned)) + drawn) % kLanes);
  }

  // Why nobody can go on although not everybody is done; empty when all are.
  std::string unfinished() const {
    for (std::size_t warp = 0; warp < warp_meetings_.size(); ++warp) {
      const Meeting& meeting = warp_meetings_[warp];
      if (meeting.arrived == 0) continue;
      for (int lane = 0; lane < kLanes; ++lane) {
        if (meeting.operands[static_cast<std::size_t>(lane)] == nullptr) {
          return missing(meeting, kLanes, static_cast<int>(warp) * kLanes + lane);
        }
      }
    }
    if (block_meeting_.arrived == 0) return "";
    for (std::size_t index = 0; index < threads_.size(); ++index) {
      if (threads_[index].finished) return missing(block_meeting_, warps_ * kLanes, static_cast<int>(index));
    }
    return missing(block_meeting_, warps_ * kLanes, -1);
  }

  std::string missing(const Meeting& meeting, int expected, int thread) const {
    std::string text = std::string(meeting.kind) + " at " + describe(meeting.source) + ": " +
                       std::to_string(meeting.arrived) + " of " + std::to_string(expected) + " lanes arrived";
    if (thread >= 0) {
      const bool gone = threads_[static_cast<std::size_t>(thread)].finished;
      text += "; missing: " + describe_thread(thread) + (gone ? ", which has returned" : ", which waits elsewhere");
    }
    return text;
  }

  std::vector<Region> regions_;
  std::minstd_rand random_;
  Order order_;
  const std::function<void()>* kernel_ = nullptr;
  std::vector<std::unique_ptr<Stack>> stacks_;
  std::vector<Thread> threads_;
  std::vector<Meeting> warp_meetings_;
  Meeting block_meeting_;
  std::array<std::uint32_t, kMaxThreads / kLanes> ready_{};
  SharedMemory shared_;
  Context home_;
  std::int64_t block_ = 0;
  std::int64_t blocks_ = 0;
  int warps_ = 0;
  int current_ = 0;
  std::string failure_;
};

}  // namespace foldase::emulation
