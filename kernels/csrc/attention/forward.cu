// Attention forward: softmax(scale q k^T + biases) v, one pass over the keys with a running maximum and sum (Dao et
// al. 2022, FlashAttention, algorithm 1), times sigmoid(gate). A block computes 64 queries of one head of one row;
// its keys and values come in tiles, the next one copied while the present one is used. Scores never leave registers.
// Rows that share a bias are taken together where enough blocks are left.
#include <string>
#include <utility>

#include "forward_rows.cuh"
#include "interface.h"

namespace foldase {

// Rows of a block whose rows share a bias: more would take the registers that keep a second block running.
constexpr int kTogether = 2;

// Blocks below which rows are not taken together: some for each multiprocessor of a large GPU. A guess, not measured.
constexpr std::int64_t kEnoughBlocks = 512;

template <class T, int kWidth, int kRows>
FOLDASE_DEVICE void attend(const FoldaseAttention& arguments) {
  const std::int64_t count = Work::count(arguments, kRows);
  for (std::int64_t index = block_index(); index < count; index += block_count()) {
    const Work work(arguments, index, kRows);
    Forward<T, kWidth, kRows>(arguments, work).run();
    // The next queries must not overwrite those that a slower warp still reads.
    block_barrier();
  }
}

template <class T, int kWidth>
FOLDASE_KERNEL void FOLDASE_THREADS(kThreads, (sizeof(T) == 2 && kWidth == 32 ? 3 : 1))
    attention_forward(FOLDASE_PARAMETER FoldaseAttention arguments) {
  attend<T, kWidth, 1>(arguments);
}

template <class T, int kWidth>
FOLDASE_KERNEL void FOLDASE_THREADS(kThreads, 2) attention_forward_rows(FOLDASE_PARAMETER FoldaseAttention arguments) {
  attend<T, kWidth, kTogether>(arguments);
}

template <class T, int kWidth>
std::string launch_forward(const FoldaseAttention& arguments, void* stream) {
  return launch(attention_forward<T, kWidth>, blocks_for(Work::count(arguments), arguments), kThreads,
                Forward<T, kWidth, 1>::kBytes, stream, arguments);
}

template <class T, int kWidth>
std::string launch_forward_rows(const FoldaseAttention& arguments, void* stream) {
  return launch(attention_forward_rows<T, kWidth>, blocks_for(Work::count(arguments, kTogether), arguments), kThreads,
                Forward<T, kWidth, kTogether>::kBytes, stream, arguments);
}

// Whether all rows of a batch read the same values of a bias, which differ from query to query.
inline bool is_shared(const FoldaseTerm& bias) { return bias.row == 0 && bias.query != 0; }

// Puts a shared bias first, for both kernels: the order of biases is the order of their sum.
inline FoldaseAttention shared_bias_first(FoldaseAttention own) {
  for (int number = 1; number < own.bias_count && !is_shared(own.biases[0]); ++number) {
    if (is_shared(own.biases[number])) std::swap(own.biases[0], own.biases[number]);
  }
  return own;
}

// Where the caller limits the blocks, as many as the limit are enough.
inline bool taken_together(const FoldaseAttention& arguments) {
  const std::int64_t limit = arguments.block_limit;
  const std::int64_t enough = limit > 0 && limit < kEnoughBlocks ? limit : kEnoughBlocks;
  return arguments.rows > 1 && arguments.bias_count > 0 && is_shared(arguments.biases[0]) &&
         Work::count(arguments, kTogether) >= enough;
}

template <class T>
std::string launch_forward_width(const FoldaseAttention& arguments, void* stream) {
  if constexpr (sizeof(T) == 2) {
    if (arguments.width <= 32 && taken_together(arguments)) return launch_forward_rows<T, 32>(arguments, stream);
  }
  if (arguments.width <= 32) return launch_forward<T, 32>(arguments, stream);
  if (arguments.width <= 64) return launch_forward<T, 64>(arguments, stream);
  return launch_forward<T, 128>(arguments, stream);
}

}  // namespace foldase

// Computes attention on a stream. Returns 0, or 1 when the arguments do not fit, or 2 when the launch failed; then
// `message`, of `capacity` bytes, says why. Allocates nothing and waits for nothing.
FOLDASE_EXPORT int foldase_attention_forward(const FoldaseAttention* arguments, void* stream, char* message,
                                             int64_t capacity) {
  std::string problem = foldase::check_arguments(arguments);
  if (!problem.empty()) return foldase::report(problem, 1, message, capacity);
  const FoldaseAttention own = foldase::shared_bias_first(*arguments);
  foldase::declare_arguments(own);
  if (own.dtype == FOLDASE_FLOAT32) {
    problem = foldase::launch_forward_width<float>(own, stream);
  } else if (own.dtype == FOLDASE_BFLOAT16) {
    problem = foldase::launch_forward_width<foldase::BFloat16>(own, stream);
  } else {
    problem = foldase::launch_forward_width<foldase::Float16>(own, stream);
  }
  return foldase::report(problem, problem.empty() ? 0 : 2, message, capacity);
}
