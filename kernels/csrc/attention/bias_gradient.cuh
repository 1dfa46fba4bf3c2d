// The gradient of one bias: a block owns a tile of the bias itself and lets everything that shares it pass by, rows for
// a pair bias, also heads and tiles of queries or keys where it broadcasts over them. The sum stays in registers, in one
// order, and is written once; so neither atomics nor a sum in memory is needed, except where the tiles are too few to
// keep a device busy: then the sum is cut into groups, whose partial sums a second kernel adds.
#pragma once

#include "backward.h"
#include "products.cuh"
#include "sweep.cuh"
#include "terms.cuh"

namespace foldase {

// A place in the five dimensions of a plan.
struct Spot {
  int at[5];

  // The `number`-th of those that `counts` spans, the last dimension fastest.
  FOLDASE_DEVICE Spot(const int (&counts)[5], std::int64_t number) {
    FOLDASE_UNROLL
    for (int dimension = 4; dimension >= 0; --dimension) {
      at[dimension] = static_cast<int>(number % counts[dimension]);
      number /= counts[dimension];
    }
  }

  // The next one; divisions would cost as much as a product of tiles.
  FOLDASE_DEVICE void advance(const int (&counts)[5]) {
    bool carry = true;
    FOLDASE_UNROLL
    for (int dimension = 4; dimension >= 0; --dimension) {
      at[dimension] += carry ? 1 : 0;
      carry = at[dimension] == counts[dimension];
      at[dimension] = carry ? 0 : at[dimension];
    }
  }

  FOLDASE_DEVICE Spot plus(const Spot& other) const {
    Spot sum = *this;
    FOLDASE_UNROLL
    for (int dimension = 0; dimension < 5; ++dimension) sum.at[dimension] += other.at[dimension];
    return sum;
  }
};

// Writes one element of the gradient, or adds it to what is there.
template <class T>
FOLDASE_DEVICE void store_bias(const FoldaseTerm& grad, std::int64_t offset, float value) {
  T* to = static_cast<T*>(grad.data) + offset;
  if (grad.added != 0) value += to_float(global_load(to));
  global_store(to, from_float<T>(value));
}

// Element (query, key) of the result of a program, unless it lies beyond the bias.
FOLDASE_DEVICE void write_bias(const BiasArguments& arguments, const Spot& program, int columns, int query, int key,
                               float value) {
  const FoldaseTerm& grad = arguments.grad;
  const std::int64_t row = static_cast<std::int64_t>(program.at[3]) * kQueries + query;
  const std::int64_t column = static_cast<std::int64_t>(program.at[4]) * columns + key;
  if (row >= arguments.terms.queries || column >= arguments.terms.keys) return;
  const std::int64_t offset = program.at[0] * grad.batch + program.at[1] * grad.row + program.at[2] * grad.head +
                              row * grad.query + column * grad.key;
  if (grad.dtype == FOLDASE_FLOAT32) return store_bias<float>(grad, offset, value);
  if (grad.dtype == FOLDASE_BFLOAT16) return store_bias<BFloat16>(grad, offset, value);
  store_bias<Float16>(grad, offset, value);
}

template <class T, int kWidth>
struct BiasGradient {
  static constexpr int kColumns = kWidth == 32 ? 64 : 32;
  using Product = Products<T, kWidth, kColumns, false>;
  static constexpr int kGroups = Product::kScores;
  static constexpr int kOwn = kQueries * kWidth * static_cast<int>(sizeof(T));
  static constexpr int kTile = kColumns * kWidth * static_cast<int>(sizeof(T));
  static constexpr int kStage = 2 * kOwn + 2 * kTile;
  // Two where they fit: then the next tiles are copied while these are used.
  static constexpr int kStages = 2 * kStage <= kSharedBytes ? 2 : 1;
  static constexpr int kBytes = kStages * kStage;
  static_assert(kBytes <= kSharedBytes);
  static_assert(kQueries * (kColumns + 1) * 4 <= kBytes, "the sums of a tile must fit where the tiles were");

  static FOLDASE_DEVICE T* tile(int stage, int number) {
    const int start = number < 2 ? number * kOwn : 2 * kOwn + (number - 2) * kTile;
    return reinterpret_cast<T*>(shared_memory() + stage * kStage + start);
  }

  static FOLDASE_DEVICE void fill(const BiasArguments& arguments, int stage, const Spot& spot) {
    const FoldaseAttention& own = arguments.terms;
    const int batch = spot.at[0], row = spot.at[1], head = spot.at[2];
    const int query = spot.at[3] * kQueries, key = spot.at[4] * kColumns;
    fill_tile<T, kWidth, kQueries>(tile(stage, 0), Head<T>(own.q, batch, row, head, own.queries, own.width), query);
    fill_tile<T, kWidth, kQueries>(tile(stage, 1),
                                   Head<T>(arguments.incoming, batch, row, head, own.queries, own.width), query);
    fill_tile<T, kWidth, kColumns>(tile(stage, 2), Head<T>(own.k, batch, row, head, own.keys, own.width), key);
    fill_tile<T, kWidth, kColumns>(tile(stage, 3), Head<T>(own.v, batch, row, head, own.keys, own.width), key);
    commit_copies();
  }

  // Adds the gradient of the scores of one tile.
  static FOLDASE_DEVICE void take_tile(const BiasArguments& arguments, int stage, const Spot& spot,
                                       float (&sums)[kGroups][4]) {
    const FoldaseAttention& own = arguments.terms;
    const int lane = thread_index() % 32;
    const int start = spot.at[4] * kColumns;
    const Place place{spot.at[3] * kQueries + thread_index() / 32 * 16 + lane / 4, start + 2 * (lane % 4),
                      static_cast<int>(own.queries), static_cast<int>(own.keys)};
    const std::int64_t line = (spot.at[0] * own.rows + spot.at[1]) * own.heads + spot.at[2];
    float base[2], delta[2];
    FOLDASE_UNROLL
    for (int side = 0; side < 2; ++side) {
      base[side] = global_load(arguments.base + line * arguments.line + place.query + 8 * side);
      delta[side] = global_load(arguments.delta + line * arguments.line + place.query + 8 * side);
    }
    float weights[kGroups][4], grads[kGroups][4];
    Product product;
    product.take(tile(stage, 0));
    product.score(weights, tile(stage, 2));
    finish_scores<false>(weights, own, spot.at[0], spot.at[1], spot.at[2], place, start + kColumns);
    product.take(tile(stage, 1));
    product.score(grads, tile(stage, 3));
    differentiate(
        weights, grads, [&](int, int part) { return base[part / 2]; },
        [&](int, int part) { return delta[part / 2]; });
    FOLDASE_UNROLL
    for (int group = 0; group < kGroups; ++group) {
      FOLDASE_UNROLL
      for (int part = 0; part < 4; ++part) sums[group][part] += grads[group][part];
    }
  }

  // Whether a tile holds later keys alone, which no query sees.
  static FOLDASE_DEVICE bool unseen(const FoldaseAttention& own, const Spot& spot) {
    const std::int64_t last = static_cast<std::int64_t>(spot.at[3] + 1) * kQueries - 1 + own.keys - own.queries;
    return own.causal != 0 && static_cast<std::int64_t>(spot.at[4]) * kColumns > last;
  }

  // The steps of one group of one program.
  static FOLDASE_DEVICE void sum(const BiasArguments& arguments, const Spot& program, std::int64_t group,
                                 float (&sums)[kGroups][4]) {
    const BiasPlan& plan = arguments.plan;
    if (plan.tile_queries > 1 && plan.tile_keys > 1 && unseen(arguments.terms, program)) return;
    const std::int64_t begin = group * plan.group_steps;
    const std::int64_t end = begin + plan.group_steps < plan.steps ? begin + plan.group_steps : plan.steps;
    Spot step(plan.summed, begin);
    if (kStages == 2 && begin < end) fill(arguments, 0, program.plus(step));
    for (std::int64_t index = begin; index < end; ++index) {
      const int stage = kStages == 2 ? static_cast<int>((index - begin) % 2) : 0;
      const Spot spot = program.plus(step);
      step.advance(plan.summed);
      if (kStages == 2 && index + 1 < end) {
        fill(arguments, 1 - stage, program.plus(step));
        wait_copies<1>();
      } else {
        if (kStages == 1) fill(arguments, 0, spot);
        wait_copies<0>();
      }
      block_barrier();
      if (!unseen(arguments.terms, spot)) take_tile(arguments, stage, spot, sums);
      block_barrier();
    }
  }

  // Reduces a tile over the queries or keys that the bias does not tell apart, and hands every element on.
  template <class Write>
  static FOLDASE_DEVICE void reduce(const BiasPlan& plan, const float (&sums)[kGroups][4], Write write) {
    constexpr int kLine = kColumns + 1;
    float* tile = reinterpret_cast<float*>(shared_memory());
    const int lane = thread_index() % 32, query = thread_index() / 32 * 16 + lane / 4;
    FOLDASE_UNROLL
    for (int group = 0; group < kGroups; ++group) {
      FOLDASE_UNROLL
      for (int part = 0; part < 4; ++part) {
        const int row = query + part / 2 * 8, column = 8 * group + 2 * (lane % 4) + part % 2;
        if (plan.tile_queries > 1 && plan.tile_keys > 1) {
          write(row, column, sums[group][part]);
        } else {
          shared_store(tile + row * kLine + column, sums[group][part]);
        }
      }
    }
    if (plan.tile_queries > 1 && plan.tile_keys > 1) return;
    block_barrier();
    const bool by_key = plan.tile_keys > 1;
    const int own = thread_index();
    float total = 0.0f;
    if (own < (by_key ? kColumns : kQueries)) {
      const int count = by_key ? kQueries : kColumns;
      const int from = by_key ? own : own * kLine, step = by_key ? kLine : 1;
      for (int index = 0; index < count; ++index) total += shared_load(tile + from + index * step);
    }
    block_barrier();
    if (by_key || plan.tile_queries > 1) {
      if (own < (by_key ? kColumns : kQueries)) write(by_key ? 0 : own, by_key ? own : 0, total);
      return;
    }
    if (own < kQueries) shared_store(tile + own, total);
    block_barrier();
    if (own != 0) return;
    for (int row = 1; row < kQueries; ++row) total += shared_load(tile + row);
    write(0, 0, total);
  }
};

// Where the result of one program for one group lies among the partial sums.
FOLDASE_DEVICE float* partial_of(const BiasArguments& arguments, std::int64_t group, std::int64_t program) {
  const BiasPlan& plan = arguments.plan;
  return arguments.partials + (group * plan.programs + program) * (plan.tile_queries * plan.tile_keys);
}

template <class T, int kWidth>
FOLDASE_KERNEL void FOLDASE_THREADS(kThreads, kWidth == 128 ? 1 : 2)
    attention_backward_bias(FOLDASE_PARAMETER BiasArguments arguments) {
  using Own = BiasGradient<T, kWidth>;
  const BiasPlan& plan = arguments.plan;
  for (std::int64_t index = block_index(); index < plan.programs * plan.groups; index += block_count()) {
    const std::int64_t group = index / plan.programs, number = index % plan.programs;
    const Spot program(plan.owned, number);
    float sums[Own::kGroups][4] = {};
    Own::sum(arguments, program, group, sums);
    if (plan.groups == 1) {
      Own::reduce(plan, sums, [&](int query, int key, float value) {
        write_bias(arguments, program, Own::kColumns, query, key, value);
      });
    } else {
      float* to = partial_of(arguments, group, number);
      Own::reduce(plan, sums, [&](int query, int key, float value) {
        global_store(to + query * plan.tile_keys + key, value);
      });
    }
    // The next tiles must not overwrite sums that are still read.
    block_barrier();
  }
}

// Adds the partial sums of the groups, the first one first.
template <int kColumns>
FOLDASE_KERNEL void FOLDASE_THREADS(kThreads, 1) attention_backward_partials(FOLDASE_PARAMETER BiasArguments arguments) {
  const BiasPlan& plan = arguments.plan;
  const int elements = plan.tile_queries * plan.tile_keys;
  for (std::int64_t index = block_index(); index < plan.programs; index += block_count()) {
    const Spot program(plan.owned, index);
    for (int element = thread_index(); element < elements; element += kThreads) {
      float total = 0.0f;
      for (std::int64_t group = 0; group < plan.groups; ++group) {
        total += global_load(partial_of(arguments, group, index) + element);
      }
      write_bias(arguments, program, kColumns, element / plan.tile_keys, element % plan.tile_keys, total);
    }
  }
}

template <class T, int kWidth>
std::int64_t bias_partial_bytes(const FoldaseAttentionBackward& arguments) {
  std::int64_t most = 0;
  for (int number = 0; number < arguments.forward.bias_count; ++number) {
    const FoldaseTerm& grad = arguments.grad_biases[number];
    if (grad.data == nullptr) continue;
    const std::int64_t bytes =
        plan_bias(arguments.forward, grad, kQueries, BiasGradient<T, kWidth>::kColumns).partial_bytes();
    most = bytes > most ? bytes : most;
  }
  return most;
}

template <class T, int kWidth>
std::string launch_biases(const FoldaseAttentionBackward& arguments, const Workspace& workspace, void* stream) {
  using Own = BiasGradient<T, kWidth>;
  std::string problem;
  for (int number = 0; number < arguments.forward.bias_count && problem.empty(); ++number) {
    const FoldaseTerm& grad = arguments.grad_biases[number];
    if (grad.data == nullptr) continue;
    const BiasArguments own{arguments.forward,
                            incoming_of(arguments, workspace),
                            grad,
                            plan_bias(arguments.forward, grad, kQueries, Own::kColumns),
                            workspace.base,
                            workspace.delta,
                            workspace.line,
                            workspace.partials};
    declare_backward(arguments, workspace);
    problem = launch(attention_backward_bias<T, kWidth>,
                     blocks_for(own.plan.programs * own.plan.groups, arguments.forward), kThreads, Own::kBytes, stream,
                     own);
    if (!problem.empty() || own.plan.groups == 1) continue;
    declare_backward(arguments, workspace);
    problem = launch(attention_backward_partials<Own::kColumns>, blocks_for(own.plan.programs, arguments.forward),
                     kThreads, 0, stream, own);
  }
  return problem;
}

}  // namespace foldase
