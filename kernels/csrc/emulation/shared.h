// Shared memory of one block, with a shadow cell a byte: what is there, who touched it last, and in which epoch.
//
// Two accesses of different threads, one of them a write, must have a block barrier between them, or a warp barrier
// when both threads are of one warp. Anything else is reported as a race, whatever the values were.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace foldase::emulation {

constexpr int kLanes = 32;

struct Source {
  const char* file;
  int line;
};

inline std::string describe(Source source) {
  const std::string path = source.file;
  return path.substr(path.find_last_of('/') + 1) + ":" + std::to_string(source.line);
}

inline std::string describe_thread(int thread) {
  return "lane " + std::to_string(thread % kLanes) + " of warp " + std::to_string(thread / kLanes);
}

// An error in the emulated kernel; caught where the fiber began.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Who accesses: a thread, or a whole warp at once (a matrix load reads for all its lanes).
struct Accessor {
  int thread;
  bool whole_warp;
  Source source;
};

class SharedMemory {
 public:
  static constexpr unsigned char kPoison = 0xff;  // a NaN in every floating format

  void reset(std::size_t bytes, int warps) {
    // One spare unit, so that the memory handed out starts at a multiple of 128 bytes.
    storage_.assign(bytes + 128, kPoison);
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    data_ = storage_.data() + ((128 - address % 128) % 128);
    cells_.assign(bytes, Cell{});
    block_epoch_ = 1;
    warp_epochs_.assign(static_cast<std::size_t>(warps), 1);
  }

  unsigned char* data() { return data_; }

  void pass_warp_barrier(int warp) { ++warp_epochs_[static_cast<std::size_t>(warp)]; }

  void pass_block_barrier() {
    ++block_epoch_;
    for (auto& epoch : warp_epochs_) ++epoch;
  }

  void read(const void* from, void* to, std::size_t bytes, Accessor who) {
    const std::size_t first = locate(from, bytes, who);
    for (std::size_t at = first; at < first + bytes; ++at) note_read(at, who);
    std::memcpy(to, from, bytes);
  }

  void write(void* to, const void* from, std::size_t bytes, Accessor who) {
    const std::size_t first = locate(to, bytes, who);
    for (std::size_t at = first; at < first + bytes; ++at) note_write(at, who, State::written);
    std::memcpy(to, from, bytes);
  }

  // An asynchronous copy was issued: nothing may look at the bytes before it has landed.
  void begin_copy(void* to, std::size_t bytes, Accessor who) {
    const std::size_t first = locate(to, bytes, who);
    for (std::size_t at = first; at < first + bytes; ++at) note_write(at, who, State::in_flight);
    std::memset(to, kPoison, bytes);
  }

  // The copy's thread waited for it; for other threads it is as if that thread wrote now.
  void land_copy(void* to, const void* from, std::size_t bytes, Accessor who) {
    const std::size_t first = locate(to, bytes, who);
    for (std::size_t at = first; at < first + bytes; ++at) {
      cells_[at].state = State::written;
      note_write(at, who, State::written);
    }
    if (from == nullptr) {
      std::memset(to, 0, bytes);
    } else {
      std::memcpy(to, from, bytes);
    }
  }

 private:
  enum class State : std::uint8_t { nothing, written, in_flight };
  enum class Readers : std::uint8_t { none, thread, warp, block };

  struct Cell {
    std::uint32_t write_block = 0, write_warp = 0, read_block = 0, read_warp = 0;
    std::int32_t write_line = 0, read_line = 0;
    std::int16_t writer = -1, reader = -1;
    State state = State::nothing;
    Readers readers = Readers::none;
  };

  std::size_t locate(const void* address, std::size_t bytes, Accessor who) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(data_);
    const auto wanted = reinterpret_cast<std::uintptr_t>(address);
    if (wanted < begin || wanted + bytes > begin + cells_.size()) {
      fail("an access of " + std::to_string(bytes) + " bytes lies outside of shared memory", who);
    }
    if (wanted % bytes != 0) fail("a shared access of " + std::to_string(bytes) + " bytes is misaligned", who);
    return wanted - begin;
  }

  [[noreturn]] static void fail(const std::string& what, Accessor who) {
    throw Failure(what + " (" + describe_thread(who.thread) + ", " + describe(who.source) + ")");
  }

  [[noreturn]] static void race(std::size_t at, const char* now, const char* before, int other, int line, Accessor who) {
    fail("race on shared byte " + std::to_string(at) + ": " + now + " here, " + before + " by " +
             describe_thread(other) + " at line " + std::to_string(line) + ", with no barrier between",
         who);
  }

  // Whether an earlier access of `thread` is ordered before one of `who` made now.
  bool ordered(std::uint32_t block, std::uint32_t warp, int thread, Accessor who) const {
    if (block < block_epoch_ || (thread == who.thread && !who.whole_warp)) return true;
    const int own = who.thread / kLanes;
    return thread / kLanes == own && warp < warp_epochs_[static_cast<std::size_t>(own)];
  }

  void note_read(std::size_t at, Accessor who) {
    Cell& cell = cells_[at];
    if (cell.state == State::nothing) fail("shared byte " + std::to_string(at) + " is read, but never was written", who);
    if (cell.state == State::in_flight) {
      fail("shared byte " + std::to_string(at) + " is read while a copy is in flight", who);
    }
    if (!ordered(cell.write_block, cell.write_warp, cell.writer, who)) {
      race(at, "read", "written", cell.writer, cell.write_line, who);
    }
    const auto warp = static_cast<std::size_t>(who.thread / kLanes);
    // Readers that are ordered before this one need not be remembered: what follows this one follows them.
    const bool alone = cell.readers == Readers::none || cell.read_block < block_epoch_ ||
                       (cell.readers != Readers::block && same_warp(cell, who) && cell.read_warp < warp_epochs_[warp]);
    if (alone) {
      cell.readers = who.whole_warp ? Readers::warp : Readers::thread;
    } else if (cell.readers == Readers::block || !same_warp(cell, who)) {
      cell.readers = Readers::block;
    } else if (who.whole_warp || cell.reader != who.thread) {
      cell.readers = Readers::warp;
    }
    cell.reader = static_cast<std::int16_t>(who.thread);
    cell.read_block = block_epoch_;
    cell.read_warp = warp_epochs_[warp];
    cell.read_line = who.source.line;
  }

  static bool same_warp(const Cell& cell, Accessor who) { return cell.reader / kLanes == who.thread / kLanes; }

  void note_write(std::size_t at, Accessor who, State state) {
    Cell& cell = cells_[at];
    if (cell.state == State::in_flight) {
      fail("shared byte " + std::to_string(at) + " is written while a copy is in flight", who);
    }
    if (cell.state == State::written && !ordered(cell.write_block, cell.write_warp, cell.writer, who)) {
      race(at, "written", "written", cell.writer, cell.write_line, who);
    }
    const auto warp = static_cast<std::size_t>(who.thread / kLanes);
    if (cell.readers != Readers::none && cell.read_block == block_epoch_) {
      const bool after = cell.readers != Readers::block && same_warp(cell, who) && cell.read_warp < warp_epochs_[warp];
      const bool own = cell.readers == Readers::thread && cell.reader == who.thread;
      if (!after && !own) race(at, "written", "read", cell.reader, cell.read_line, who);
    }
    cell.readers = Readers::none;
    cell.writer = static_cast<std::int16_t>(who.thread);
    cell.write_block = block_epoch_;
    cell.write_warp = warp_epochs_[warp];
    cell.write_line = who.source.line;
    cell.state = state;
  }

  std::vector<unsigned char> storage_;
  unsigned char* data_ = nullptr;
  std::vector<Cell> cells_;
  std::uint32_t block_epoch_ = 1;
  std::vector<std::uint32_t> warp_epochs_;
};

}  // namespace foldase::emulation
