// AdamW of flat vectors in main memory: every element is read and written once, by whatever vector
// instructions the processor turns out to have. Formulas: foldase_kernels/adam/api.py.
//
// The loops are compiled once for each level of instructions, in a namespace of its own; nothing of the
// standard library is compiled for more than the plainest, since the linker keeps one copy of it for all.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#define FOLDASE_X86 1
#endif

#include "adam/interface.h"

#if defined(__clang__)
#define FOLDASE_PRAGMA(text) _Pragma(#text)
#define FOLDASE_BEGIN_TARGET(names) \
  FOLDASE_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define FOLDASE_END_TARGET _Pragma("clang attribute pop")
#else
#define FOLDASE_PRAGMA(text) _Pragma(#text)
#define FOLDASE_BEGIN_TARGET(names) _Pragma("GCC push_options") FOLDASE_PRAGMA(GCC target(names))
#define FOLDASE_END_TARGET _Pragma("GCC pop_options")
#endif

namespace foldase {
namespace {

constexpr int kSumLanes = 16;
constexpr int64_t kElementsAtOnce = 1 << 16;  // that a thread takes; for fewer, starting one takes longer

namespace plain {
#include "adam/lanes_plain.h"
#include "adam/loops.h"
}  // namespace plain

#if FOLDASE_X86
#if !defined(__clang__)
// Of the intrinsics themselves, in the compiler's headers (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
FOLDASE_BEGIN_TARGET("avx2")
namespace avx2 {
#include "adam/lanes_avx2.h"
#include "adam/loops.h"
}  // namespace avx2
FOLDASE_END_TARGET

FOLDASE_BEGIN_TARGET("avx512f")
namespace avx512 {
#include "adam/lanes_avx512.h"
#include "adam/loops.h"
}  // namespace avx512
FOLDASE_END_TARGET
#endif

struct Loops {
  int64_t (*step)(const AdamStep&, int64_t, int64_t);
  double (*square_sum)(const void*, int32_t, int64_t, int64_t);
};

bool has(int32_t level) {
  if (level == kPlain) return true;
#if FOLDASE_X86
  if (level == kAvx2) return __builtin_cpu_supports("avx2");
  if (level == kAvx512) return __builtin_cpu_supports("avx512f");
#endif
  return false;
}

// The loops of a level, or null functions where the processor has not what they need.
Loops loops_of(int32_t level) {
  if (level == kBest) level = has(kAvx512) ? kAvx512 : has(kAvx2) ? kAvx2 : kPlain;
  if (!has(level)) return {nullptr, nullptr};
#if FOLDASE_X86
  if (level == kAvx512) return {avx512::step_elements, avx512::square_sum};
  if (level == kAvx2) return {avx2::step_elements, avx2::square_sum};
#endif
  return {plain::step_elements, plain::square_sum};
}

// Call `work(unit)` for each of `count` units in up to `threads` threads, this one among them. Who is free takes
// the next unit, so that a thread that starts late, or is not let run, holds nobody up; one that the system refuses
// to start is done without.
template <typename Work>
void in_threads(int64_t count, int64_t threads, const Work& work) {
  std::atomic<int64_t> next{0};
  const auto run = [&] {
    for (int64_t unit = next++; unit < count; unit = next++) work(unit);
  };
  std::vector<std::thread> started;
  try {
    for (int64_t more = std::min(threads, count) - 1; more > 0; --more) started.emplace_back(run);
  } catch (const std::exception&) {
  }
  run();
  for (std::thread& thread : started) thread.join();
}

}  // namespace
}  // namespace foldase

extern "C" int foldase_kernels_abi() { return 2; }

extern "C" const char* foldase_adam_message(int status) {
  switch (status) {
    case foldase::kOtherInterface: return "the arguments are those of another version of the library";
    case foldase::kUnknownDtype: return "vectors are float32 or bfloat16";
    case foldase::kNoSuchInstructions: return "this processor has not the instructions that were asked for";
    default: return "no such status";
  }
}

extern "C" int foldase_adam_step(const foldase::AdamStep* given) {
  using namespace foldase;
  if (given->size != static_cast<int64_t>(sizeof(AdamStep))) return kOtherInterface;
  if (given->gradient_dtype != kFloat32 && given->gradient_dtype != kBFloat16) return kUnknownDtype;
  const Loops loops = loops_of(given->level);
  if (loops.step == nullptr) return kNoSuchInstructions;
  const AdamStep step = *given;
  const int64_t units = (step.count + kElementsAtOnce - 1) / kElementsAtOnce;
  in_threads(units, step.threads, [&step, loops](int64_t unit) {
    const int64_t end = std::min(step.count, (unit + 1) * kElementsAtOnce);
    plain::step_elements(step, loops.step(step, unit * kElementsAtOnce, end), end);
  });
  return kDone;
}

// The sum of every `block` elements goes to `sums`, so that threads change nothing about the rounding.
extern "C" int foldase_adam_square_sum(
    const void* values, int64_t count, int32_t dtype, int64_t block, double* sums, int32_t threads, int32_t level) {
  using namespace foldase;
  if (dtype != kFloat32 && dtype != kBFloat16) return kUnknownDtype;
  const Loops loops = loops_of(level);
  if (loops.square_sum == nullptr) return kNoSuchInstructions;
  const int64_t blocks = (count + block - 1) / block;
  in_threads(blocks, threads, [=](int64_t at) {
    sums[at] = loops.square_sum(values, dtype, at * block, std::min(count, (at + 1) * block));
  });
  return kDone;
}
