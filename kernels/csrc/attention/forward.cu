// Attention forward: softmax(scale q k^T + biases) v, one pass over the keys with a running maximum and sum (Dao et
// al. 2022, FlashAttention, algorithm 1), times sigmoid(gate). A block computes 64 queries of one head of one row;
// its keys and values come in tiles, the next one copied while the present one is used. Scores never leave registers.
#include <cmath>
#include <string>

#include "interface.h"
#include "products.cuh"
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

template <class T, int kWidth>
struct Forward {
  using Shape = Tile<T, kWidth>;
  static constexpr int kKeys = Shape::kKeys;
  using Product = Products<T, kWidth, kKeys>;
  static constexpr int kTile = kKeys * kWidth;  // elements of a tile of keys or values
  static constexpr int kBytes = (kQueries * kWidth + 4 * kTile) * static_cast<int>(sizeof(T));

  static FOLDASE_DEVICE void attend(const FoldaseAttention& arguments, const Work& work) {
    T* queries = reinterpret_cast<T*>(shared_memory());
    T* keys = queries + kQueries * kWidth;  // two tiles, then two of values
    T* values = keys + 2 * kTile;
    const Head<T> q(arguments.q, work.batch, work.row, work.head, arguments.queries, arguments.width);
    const Head<T> k(arguments.k, work.batch, work.row, work.head, arguments.keys, arguments.width);
    const Head<T> v(arguments.v, work.batch, work.row, work.head, arguments.keys, arguments.width);
    const int lane = thread_index() % 32;
    const int query = work.first + thread_index() / 32 * 16 + lane / 4;
    const int tiles = (keys_seen(arguments, work.first) + kKeys - 1) / kKeys;

    Product product;
    Softmax<Product::kScores, Product::kValues> softmax;
    float out[Product::kValues][4] = {};
    fill_tile<T, kWidth, kQueries>(queries, q, work.first);
    commit_copies();
    if (tiles > 0) {
      fill_tile<T, kWidth, kKeys>(keys, k, 0);
      fill_tile<T, kWidth, kKeys>(values, v, 0);
    }
    commit_copies();
    wait_copies<1>();
    block_barrier();
    product.take(queries);

    for (int tile = 0; tile < tiles; ++tile) {
      const int present = tile % 2 * kTile, next = kTile - present;
      if (tile + 1 < tiles) {
        fill_tile<T, kWidth, kKeys>(keys + next, k, (tile + 1) * kKeys);
        fill_tile<T, kWidth, kKeys>(values + next, v, (tile + 1) * kKeys);
        commit_copies();
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      block_barrier();
      float scores[Product::kScores][4];
      product.score(scores, keys + present);
      const Place place{query, tile * kKeys + 2 * (lane % 4), static_cast<int>(arguments.queries),
                        static_cast<int>(arguments.keys)};
      finish_scores<false>(scores, arguments, work.batch, work.row, work.head, place, (tile + 1) * kKeys);
      softmax.add(scores, out);
      product.add(out, scores, values + present);
      block_barrier();
    }
    softmax.finish();
    write_result<T>(arguments, work, softmax, out, query);
  }
};

template <class T, int kWidth>
FOLDASE_KERNEL void FOLDASE_THREADS(kThreads, 1) attention_forward(FOLDASE_PARAMETER FoldaseAttention arguments) {
  const std::int64_t count = Work::count(arguments);
  for (std::int64_t index = block_index(); index < count; index += block_count()) {
    Forward<T, kWidth>::attend(arguments, Work(arguments, index));
    // The next queries must not overwrite those that a slower warp still reads.
    block_barrier();
  }
}

template <class T, int kWidth>
std::string launch_forward(const FoldaseAttention& arguments, void* stream) {
  const std::int64_t blocks = blocks_for(Work::count(arguments), arguments);
  return launch(attention_forward<T, kWidth>, blocks, kThreads, Forward<T, kWidth>::kBytes, stream, arguments);
}

template <class T>
std::string launch_forward_width(const FoldaseAttention& arguments, void* stream) {
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
  foldase::declare_arguments(*arguments);
  if (arguments->dtype == FOLDASE_FLOAT32) {
    problem = foldase::launch_forward_width<float>(*arguments, stream);
  } else if (arguments->dtype == FOLDASE_BFLOAT16) {
    problem = foldase::launch_forward_width<foldase::BFloat16>(*arguments, stream);
  } else {
    problem = foldase::launch_forward_width<foldase::Float16>(*arguments, stream);
  }
  return foldase::report(problem, problem.empty() ? 0 : 2, message, capacity);
}
