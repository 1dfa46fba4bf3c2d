// The host side of the wrappers in common/device.cuh: same names, each carried out for an emulated thread.
//
// Fragment layouts follow the PTX ISA, "Matrix fragments for mma.m16n8k16" and "ldmatrix": with g = lane / 4 and
// t = lane % 4, A holds rows g and g + 8 at columns 2t and 2t + 8, B rows 2t and 2t + 8 at column g, C rows g and g + 8
// at column 2t, always with the neighbour to the right (for B: below).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "executor.h"

#define FOLDASE_DEVICE inline
#define FOLDASE_KERNEL inline
#define FOLDASE_BOTH inline
#define FOLDASE_UNROLL
#define FOLDASE_NO_UNROLL
#define FOLDASE_PARAMETER const
#define FOLDASE_THREADS(count, blocks)
#define FOLDASE_HERE ::foldase::emulation::Source source = {__builtin_FILE(), __builtin_LINE()}

#include "../common/numbers.cuh"

namespace foldase {

namespace emulation {

inline Executor& here() { return *Executor::active(); }

struct Settings {
  std::uint64_t seed = 0;
  std::vector<Region> regions;
};

inline Settings& settings() {
  static thread_local Settings value;
  return value;
}

struct MatrixLoad {
  const void* row;
  std::uint32_t* result;
};

inline std::uint16_t half_word(const unsigned char* rows, int row, int column) {
  std::uint16_t value;
  std::memcpy(&value, rows + 16 * row + 2 * column, 2);
  return value;
}

inline void load_matrices(const char* kind, std::uint32_t (&result)[4], const void* row, bool transposed, Source source) {
  MatrixLoad own{row, result};
  here().meet_warp(kind, source, &own, [&](const std::vector<void*>& lanes) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      unsigned char rows[8 * 16];
      for (int index = 0; index < 8; ++index) {
        const int lane = 8 * matrix + index;
        const auto* load = static_cast<const MatrixLoad*>(lanes[static_cast<std::size_t>(lane)]);
        const Accessor who{here().warp() * kLanes + lane, true, source};
        here().shared().read(load->row, rows + 16 * index, 16, who);
      }
      for (int lane = 0; lane < kLanes; ++lane) {
        const int g = lane / 4, t = lane % 4;
        const std::uint32_t low = transposed ? half_word(rows, 2 * t, g) : half_word(rows, g, 2 * t);
        const std::uint32_t high = transposed ? half_word(rows, 2 * t + 1, g) : half_word(rows, g, 2 * t + 1);
        static_cast<MatrixLoad*>(lanes[static_cast<std::size_t>(lane)])->result[matrix] = low | (high << 16);
      }
    }
  });
}

struct MatrixProduct {
  float* c;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

template <class T>
float unpack(std::uint32_t word, int high) {
  return to_float(T{static_cast<std::uint16_t>(high != 0 ? word >> 16 : word & 0xffff)});
}

template <class T>
void multiply_warp(const std::vector<void*>& lanes) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto* own = static_cast<const MatrixProduct*>(lanes[static_cast<std::size_t>(lane)]);
    const int g = lane / 4, t = lane % 4;
    for (int side = 0; side < 2; ++side) {
      for (int part = 0; part < 4; ++part) {
        a[g + 8 * (part % 2)][2 * t + side + 8 * (part / 2)] = unpack<T>(own->a[part], side);
      }
      for (int part = 0; part < 2; ++part) b[2 * t + side + 8 * part][g] = unpack<T>(own->b[part], side);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto* own = static_cast<const MatrixProduct*>(lanes[static_cast<std::size_t>(lane)]);
    for (int part = 0; part < 4; ++part) {
      const int row = lane / 4 + 8 * (part / 2), column = 2 * (lane % 4) + part % 2;
      float sum = own->c[part];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      own->c[part] = sum;
    }
  }
}

struct Shuffle {
  float value;
  int from;
  float result;
};

inline float shuffle(const char* kind, float value, int from, Source source) {
  Shuffle own{value, from, 0.0f};
  here().meet_warp(kind, source, &own, [&](const std::vector<void*>& lanes) {
    for (void* lane : lanes) {
      auto* wanted = static_cast<Shuffle*>(lane);
      if (wanted->from < 0 || wanted->from >= kLanes) here().fail("a shuffle from a lane that does not exist", source);
      wanted->result = static_cast<const Shuffle*>(lanes[static_cast<std::size_t>(wanted->from)])->value;
    }
  });
  return own.result;
}

}  // namespace emulation

inline int thread_index() { return emulation::here().thread(); }
inline std::int64_t block_index() { return emulation::here().block(); }
inline std::int64_t block_count() { return emulation::here().blocks(); }
inline unsigned char* shared_memory() { return emulation::here().shared().data(); }

template <class T>
T shared_load(const T* from, FOLDASE_HERE) {
  T value;
  emulation::here().shared().read(from, &value, sizeof(T), emulation::here().accessor(source));
  return value;
}

template <class T>
void shared_store(T* to, T value, FOLDASE_HERE) {
  emulation::here().shared().write(to, &value, sizeof(T), emulation::here().accessor(source));
}

template <class T>
T global_load(const T* from, FOLDASE_HERE) {
  emulation::here().check_global(from, sizeof(T), false, source);
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
void global_store(T* to, T value, FOLDASE_HERE) {
  emulation::here().check_global(to, sizeof(T), true, source);
  std::memcpy(to, &value, sizeof(T));
}

inline void load_matrices(std::uint32_t (&result)[4], const void* row, FOLDASE_HERE) {
  emulation::load_matrices("load_matrices", result, row, false, source);
}

inline void load_matrices_transposed(std::uint32_t (&result)[4], const void* row, FOLDASE_HERE) {
  emulation::load_matrices("load_matrices_transposed", result, row, true, source);
}

template <class T>
void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, FOLDASE_HERE) {
  const std::uint32_t b[2] = {b0, b1};
  emulation::MatrixProduct own{c, a, b};
  emulation::here().meet_warp("multiply_add", source, &own, emulation::multiply_warp<T>);
}

inline void copy_async(void* to, const void* from, bool inside, FOLDASE_HERE) {
  if (inside) emulation::here().check_global(from, 16, false, source);
  emulation::here().issue_copy(to, inside ? from : nullptr, source);
}

inline void commit_copies() { emulation::here().commit_copies(); }

template <int kLeft>
void wait_copies(FOLDASE_HERE) {
  emulation::here().wait_copies(kLeft, source);
}

inline float shuffle(float value, int lane, FOLDASE_HERE) { return emulation::shuffle("shuffle", value, lane, source); }

inline float shuffle_xor(float value, int bits, FOLDASE_HERE) {
  return emulation::shuffle("shuffle_xor", value, (thread_index() % emulation::kLanes) ^ bits, source);
}

inline bool any_lane(bool value, FOLDASE_HERE) {
  bool answers[2] = {value, false};
  emulation::here().meet_warp("any_lane", source, answers, [](const std::vector<void*>& lanes) {
    bool any = false;
    for (void* lane : lanes) any = any || static_cast<const bool*>(lane)[0];
    for (void* lane : lanes) static_cast<bool*>(lane)[1] = any;
  });
  return answers[1];
}

inline void warp_barrier(FOLDASE_HERE) {
  int arrived = 1;
  emulation::here().meet_warp("warp_barrier", source, &arrived, [](const std::vector<void*>&) {
    emulation::here().shared().pass_warp_barrier(emulation::here().warp());
  });
}

inline void block_barrier(FOLDASE_HERE) {
  emulation::here().meet_block("block_barrier", source, [](const std::vector<void*>&) {
    emulation::here().shared().pass_block_barrier();
  });
}

inline float exp2_fast(float value) { return std::exp2(value); }
inline float log2_fast(float value) { return std::log2(value); }
inline float divide_fast(float above, float below) { return above / below; }
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }

// Global memory that the next launch may touch.
inline void declare_memory(const void* data, std::int64_t bytes, bool writable) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  emulation::settings().regions.push_back({begin, begin + static_cast<std::uintptr_t>(bytes), writable});
}

// Returns an empty text, or what went wrong.
template <class Arguments>
std::string launch(void (*kernel)(FOLDASE_PARAMETER Arguments), std::int64_t blocks, int threads, int shared_bytes,
                   void* stream, const Arguments& arguments) {
  static_cast<void>(stream);
  emulation::Executor executor(emulation::settings().seed, std::move(emulation::settings().regions));
  emulation::settings().regions.clear();
  try {
    executor.launch(blocks, threads, static_cast<std::size_t>(shared_bytes), [&] { kernel(arguments); });
  } catch (const emulation::Failure& failure) {
    return failure.what();
  }
  return "";
}

}  // namespace foldase

// Chooses the order in which threads run in the launches that follow on this thread.
extern "C" __attribute__((weak, visibility("default"))) void foldase_emulation_seed(std::uint64_t seed) {
  foldase::emulation::settings().seed = seed;
}
