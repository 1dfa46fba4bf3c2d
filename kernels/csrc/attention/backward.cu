// The entry points of the backward pass: they check arguments, lay out the workspace and choose a dtype. The gradients
// come from kernels of their own for q, for k and v, and for every bias (Dao 2023, FlashAttention-2, algorithm 2, cut in
// pieces), none of which adds to what another block writes.
#include "backward.h"

namespace foldase {

// What is wrong with the arguments, or an empty text.
static std::string check_backward(const FoldaseAttentionBackward* arguments) {
  if (arguments == nullptr) return "no arguments were given";
  const auto size = static_cast<std::int64_t>(sizeof(FoldaseAttentionBackward));
  if (arguments->size != size) {
    return "the arguments have " + std::to_string(arguments->size) + " bytes, this library expects " +
           std::to_string(size) + "; build it again";
  }
  const FoldaseAttention& own = arguments->forward;
  std::string problem = check_arguments(&own);
  if (!problem.empty()) return problem;
  if (own.lse == nullptr || arguments->grad_out.data == nullptr) return "lse and grad_out must not be null";
  if (own.batches > 2147483647 || own.rows > 2147483647 || own.heads > 2147483647) {
    return "there are more batches, rows or heads than an int counts";
  }
  for (int number = 0; number < own.bias_count; ++number) {
    const FoldaseTerm& grad = arguments->grad_biases[number];
    if (grad.data != nullptr && (grad.dtype < FOLDASE_FLOAT32 || grad.dtype > FOLDASE_FLOAT16)) {
      return "the gradient of bias " + std::to_string(number) + " has dtype " + std::to_string(grad.dtype);
    }
  }
  return "";
}

static std::int64_t partial_bytes(const FoldaseAttentionBackward& arguments) {
  if (arguments.forward.dtype == FOLDASE_FLOAT32) return Backward<float>::partial_bytes(arguments);
  if (arguments.forward.dtype == FOLDASE_BFLOAT16) return Backward<foldase::BFloat16>::partial_bytes(arguments);
  return Backward<foldase::Float16>::partial_bytes(arguments);
}

static std::string check_workspace(const FoldaseAttentionBackward& arguments) {
  const std::int64_t needed = Workspace(arguments, partial_bytes(arguments)).bytes;
  if (arguments.workspace_bytes < needed) {
    return "the workspace has " + std::to_string(arguments.workspace_bytes) + " bytes; expected " +
           std::to_string(needed);
  }
  if (arguments.workspace == nullptr || reinterpret_cast<std::uintptr_t>(arguments.workspace) % 16 != 0) {
    return "the workspace must lie at a multiple of 16";
  }
  return "";
}

BiasPlan plan_bias(const FoldaseAttention& own, const FoldaseTerm& grad, int tile_queries, int tile_keys) {
  const std::int64_t counts[5] = {own.batches, own.rows, own.heads, (own.queries + tile_queries - 1) / tile_queries,
                                  (own.keys + tile_keys - 1) / tile_keys};
  const std::int64_t strides[5] = {grad.batch, grad.row, grad.head, grad.query, grad.key};
  BiasPlan plan{};
  plan.programs = plan.steps = 1;
  for (int dimension = 0; dimension < 5; ++dimension) {
    const int count = static_cast<int>(counts[dimension]);
    plan.owned[dimension] = strides[dimension] != 0 ? count : 1;
    plan.summed[dimension] = strides[dimension] != 0 ? 1 : count;
    plan.programs *= plan.owned[dimension];
    plan.steps *= plan.summed[dimension];
  }
  plan.tile_queries = grad.query != 0 ? tile_queries : 1;
  plan.tile_keys = grad.key != 0 ? tile_keys : 1;
  const std::int64_t busy = own.block_limit > 0 && own.block_limit < kBusy ? own.block_limit : kBusy;
  const std::int64_t wanted = plan.programs < busy ? busy / plan.programs : 1;
  plan.group_steps = (plan.steps + wanted - 1) / wanted;
  plan.groups = (plan.steps + plan.group_steps - 1) / plan.group_steps;
  return plan;
}

static void declare_bias(const FoldaseTerm& grad, const FoldaseAttention& own) {
  if (grad.data == nullptr) return;
  const std::int64_t last = (own.batches - 1) * grad.batch + (own.rows - 1) * grad.row + (own.heads - 1) * grad.head +
                            (own.queries - 1) * grad.query + (own.keys - 1) * grad.key;
  declare_memory(grad.data, (last + 1) * dtype_bytes(grad.dtype), true);
}

void declare_backward(const FoldaseAttentionBackward& arguments, const Workspace& workspace) {
  const FoldaseAttention& own = arguments.forward;
  declare_arguments(own, false);
  declare_tensor(arguments.grad_out, own, own.queries, false);
  declare_tensor(arguments.grad_q, own, own.queries, true);
  declare_tensor(arguments.grad_k, own, own.keys, true);
  declare_tensor(arguments.grad_v, own, own.keys, true);
  declare_tensor(arguments.grad_gate, own, own.queries, true);
  for (int number = 0; number < own.bias_count; ++number) declare_bias(arguments.grad_biases[number], own);
  if (arguments.grad_lse != nullptr) {
    declare_memory(arguments.grad_lse, own.batches * own.rows * own.heads * own.queries * 4, false);
  }
  declare_memory(arguments.workspace, workspace.bytes, true);
}

}  // namespace foldase

FOLDASE_EXPORT int64_t foldase_attention_backward_workspace(const FoldaseAttentionBackward* arguments) {
  if (!foldase::check_backward(arguments).empty()) return -1;
  return foldase::Workspace(*arguments, foldase::partial_bytes(*arguments)).bytes;
}

FOLDASE_EXPORT int foldase_attention_backward(const FoldaseAttentionBackward* arguments, void* stream, char* message,
                                              int64_t capacity) {
  std::string problem = foldase::check_backward(arguments);
  if (problem.empty()) problem = foldase::check_workspace(*arguments);
  if (!problem.empty()) return foldase::report(problem, 1, message, capacity);
  if (arguments->forward.dtype == FOLDASE_FLOAT32) {
    problem = foldase::Backward<float>::launch(*arguments, stream);
  } else if (arguments->forward.dtype == FOLDASE_BFLOAT16) {
    problem = foldase::Backward<foldase::BFloat16>::launch(*arguments, stream);
  } else {
    problem = foldase::Backward<foldase::Float16>::launch(*arguments, stream);
  }
  return foldase::report(problem, problem.empty() ? 0 : 2, message, capacity);
}
