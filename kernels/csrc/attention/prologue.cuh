// What the backward pass needs to know of every query before it begins: its log-sum-exp and sum(grad_out out), which
// serve all scores of the query (Dao 2023, FlashAttention-2, algorithm 2), and what the gate makes of the gradient.
#pragma once

#include <cmath>

#include "backward.h"
#include "terms.cuh"

namespace foldase {

constexpr int kSharers = 8;  // lanes that share a query

// Two neighbouring channels; the second is 0 where it lies beyond the width.
template <class T>
FOLDASE_DEVICE Pair<float> load_pair(const T* from, std::int64_t channel, bool pairs, bool both) {
  if (pairs && both) {
    const Pair<T> found = global_load(reinterpret_cast<const Pair<T>*>(from));
    return {to_float(found.low), to_float(found.high)};
  }
  return {to_float(global_load(from)), both ? to_float(global_load(from + channel)) : 0.0f};
}

// One head of a row of a tensor, read and written two channels at a time.
template <class T>
struct Channels {
  T* data;
  std::int64_t position, channel;
  bool pairs;

  FOLDASE_DEVICE Channels(const FoldaseTensor& tensor, std::int64_t batch, std::int64_t row, std::int64_t head)
      : data(nullptr), position(tensor.position), channel(tensor.channel), pairs(false) {
    if (tensor.data == nullptr) return;
    data = head_of<T>(tensor, batch, row, head);
    pairs = in_pairs(tensor, data);
  }

  FOLDASE_DEVICE T* at(std::int64_t query, int first) const { return data + query * position + first * channel; }
  FOLDASE_DEVICE Pair<float> load(std::int64_t query, int first, bool both) const {
    return load_pair<T>(at(query, first), channel, pairs, both);
  }
  FOLDASE_DEVICE void store(std::int64_t query, int first, bool both, float low, float high) const {
    store_pair(at(query, first), channel, pairs, both, low, high);
  }
};

FOLDASE_DEVICE float sigmoid(float value) { return divide_fast(1.0f, 1.0f + exp2_fast(-kLog2E * value)); }

// This lane's part of sum(grad_out out) of a query. With a gate, `out` is the gated output: the gate may stand with
// either factor, here and in its own gradient grad_out out (1 - sigmoid), so that no division is needed.
template <class T>
FOLDASE_DEVICE float take_query(const PrologueArguments& arguments, const Work& work, std::int64_t query) {
  const Channels<T> out(arguments.forward.out, work.batch, work.row, work.head);
  const Channels<T> grad_out(arguments.grad_out, work.batch, work.row, work.head);
  const Channels<T> gate(arguments.forward.gate, work.batch, work.row, work.head);
  const Channels<T> grad_gate(arguments.grad_gate, work.batch, work.row, work.head);
  const Channels<T> incoming(arguments.incoming, work.batch, work.row, work.head);
  const int width = static_cast<int>(arguments.forward.width);
  float sum = 0.0f;
  for (int first = 2 * (thread_index() % kSharers); first < width; first += 2 * kSharers) {
    const bool both = first + 1 < width;
    const Pair<float> value = out.load(query, first, both), grad = grad_out.load(query, first, both);
    const float low = value.low * grad.low, high = value.high * grad.high;
    sum += low + high;
    if (gate.data == nullptr) continue;
    const Pair<float> closed = gate.load(query, first, both);
    const float low_open = sigmoid(closed.low), high_open = sigmoid(closed.high);
    incoming.store(query, first, both, grad.low * low_open, grad.high * high_open);
    if (grad_gate.data == nullptr) continue;
    grad_gate.store(query, first, both, low * (1.0f - low_open), high * (1.0f - high_open));
  }
  return sum;
}

// A block takes 64 queries of one head, four of them a warp at a time.
template <class T>
FOLDASE_KERNEL void FOLDASE_THREADS(kThreads, 1)
    attention_backward_prologue(FOLDASE_PARAMETER PrologueArguments arguments) {
  const FoldaseAttention& own = arguments.forward;
  for (std::int64_t index = block_index(); index < Work::count(own); index += block_count()) {
    const Work work(own, index);
    const std::int64_t line = (work.batch * own.rows + work.row) * own.heads + work.head;
    for (int start = 0; start < kQueries; start += kThreads / kSharers) {
      const std::int64_t query = work.first + start + thread_index() / kSharers;
      const bool inside = query < own.queries;
      float sum = inside ? take_query<T>(arguments, work, query) : 0.0f;
      FOLDASE_UNROLL
      for (int bits = 1; bits < kSharers; bits *= 2) sum += shuffle_xor(sum, bits);
      if (thread_index() % kSharers != 0) continue;
      const float lse = inside ? global_load(own.lse + line * own.queries + query) : -INFINITY;
      if (inside && arguments.grad_lse != nullptr) {
        sum -= global_load(arguments.grad_lse + line * own.queries + query);
      }
      // The weights of a query without keys come out as exp2(score - infinity) = 0, those of places beyond too.
      const bool dead = lse == -INFINITY;
      global_store(arguments.base + line * arguments.line + query, dead ? INFINITY : lse * kLog2E);
      global_store(arguments.delta + line * arguments.line + query, dead ? 0.0f : sum);
    }
  }
}

template <class T>
std::string launch_prologue(const FoldaseAttentionBackward& arguments, const Workspace& workspace, void* stream) {
  PrologueArguments own{arguments.forward, arguments.grad_out,   arguments.grad_gate, {},
                        arguments.grad_lse, workspace.base, workspace.delta,    workspace.line};
  if (arguments.forward.gate.data != nullptr) own.incoming = incoming_of(arguments, workspace);
  declare_backward(arguments, workspace);
  const std::int64_t blocks = blocks_for(Work::count(arguments.forward), arguments.forward);
  return launch(attention_backward_prologue<T>, blocks, kThreads, 0, stream, own);
}

}  // namespace foldase
