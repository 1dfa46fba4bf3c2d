// What the forward pass keeps of the scores that have passed by, and what it writes in the end.
#pragma once

#include <cmath>

#include "terms.cuh"

namespace foldase {

// The running softmax of the two queries a lane belongs to, in powers of two.
template <int kScores, int kValues>
struct Softmax {
  float top[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};  // of this lane's own keys

  // Turns scores into weights and rescales what was summed so far.
  FOLDASE_DEVICE void add(float (&scores)[kScores][4], float (&out)[kValues][4]) {
    FOLDASE_UNROLL
    for (int side = 0; side < 2; ++side) {
      float largest = top[side];
      FOLDASE_UNROLL
      for (int group = 0; group < kScores; ++group) {
        largest = fmaxf(largest, fmaxf(scores[group][2 * side], scores[group][2 * side + 1]));
      }
      largest = fmaxf(largest, shuffle_xor(largest, 1));
      largest = fmaxf(largest, shuffle_xor(largest, 2));
      // Without any key so far the weights must come out as 0, not as exp2(-inf + inf).
      const float base = largest == -INFINITY ? 0.0f : largest;
      const float factor = exp2_fast(top[side] - base);
      top[side] = largest;
      float added = 0.0f;
      FOLDASE_UNROLL
      for (int group = 0; group < kScores; ++group) {
        FOLDASE_UNROLL
        for (int part = 2 * side; part < 2 * side + 2; ++part) {
          scores[group][part] = exp2_fast(scores[group][part] - base);
          added += scores[group][part];
        }
      }
      sum[side] = sum[side] * factor + added;
      FOLDASE_UNROLL
      for (int group = 0; group < kValues; ++group) {
        out[group][2 * side] *= factor;
        out[group][2 * side + 1] *= factor;
      }
    }
  }

  FOLDASE_DEVICE void finish() {
    FOLDASE_UNROLL
    for (int side = 0; side < 2; ++side) {
      sum[side] += shuffle_xor(sum[side], 1);
      sum[side] += shuffle_xor(sum[side], 2);
    }
  }
};

// Keys that the queries of a block may see at all.
FOLDASE_DEVICE int keys_seen(const FoldaseAttention& arguments, int first_query) {
  if (arguments.causal == 0) return static_cast<int>(arguments.keys);
  const std::int64_t end = first_query + kQueries < arguments.queries ? first_query + kQueries : arguments.queries;
  const std::int64_t seen = end + arguments.keys - arguments.queries;
  return seen < 0 ? 0 : static_cast<int>(seen);
}

// Gates two neighbouring channels of a query.
template <class T>
FOLDASE_DEVICE void apply_gate(const T* gate, std::int64_t channel, bool both, float& low, float& high) {
  low *= divide_fast(1.0f, 1.0f + exp2_fast(-kLog2E * to_float(global_load(gate))));
  if (both) high *= divide_fast(1.0f, 1.0f + exp2_fast(-kLog2E * to_float(global_load(gate + channel))));
}

// Divides by the sums, gates, and writes the output and the log-sum-exp of this lane's two queries.
template <class T, int kScores, int kValues>
FOLDASE_DEVICE void write_result(const FoldaseAttention& arguments, const Work& work,
                                 const Softmax<kScores, kValues>& softmax, const float (&out)[kValues][4], int query) {
  const FoldaseTensor& to = arguments.out;
  const FoldaseTensor& gate = arguments.gate;
  const int first = 2 * (thread_index() % 4);
  const int width = static_cast<int>(arguments.width);
  T* head = head_of<T>(to, work.batch, work.row, work.head);
  const T* gates = gate.data == nullptr ? nullptr : head_of<T>(gate, work.batch, work.row, work.head);
  const bool pairs = in_pairs(to, head);
  FOLDASE_UNROLL
  for (int side = 0; side < 2; ++side) {
    const std::int64_t position = query + 8 * side;
    if (position >= arguments.queries) continue;
    const float sum = softmax.sum[side];
    const float factor = sum > 0.0f ? 1.0f / sum : 0.0f;
    FOLDASE_UNROLL
    for (int group = 0; group < kValues; ++group) {
      const int channel = 8 * group + first;
      if (channel >= width) continue;
      const bool both = channel + 1 < width;
      float low = out[group][2 * side] * factor, high = out[group][2 * side + 1] * factor;
      if (gates != nullptr) {
        apply_gate(gates + position * gate.position + channel * gate.channel, gate.channel, both, low, high);
      }
      store_pair(head + position * to.position + channel * to.channel, to.channel, pairs, both, low, high);
    }
    if (arguments.lse != nullptr && first == 0) {
      const std::int64_t line = (work.batch * arguments.rows + work.row) * arguments.heads + work.head;
      const float lse = sum > 0.0f ? (softmax.top[side] + log2_fast(sum)) * kLn2 : -INFINITY;
      global_store(arguments.lse + line * arguments.queries + position, lse);
    }
  }
}

}  // namespace foldase
