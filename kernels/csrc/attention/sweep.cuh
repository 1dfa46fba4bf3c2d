// The gradients of q, or of k and v: a block owns 64 positions of one head and lets those on the other side pass by in
// tiles, recomputing weights from the log-sum-exp (Dao 2023, FlashAttention-2, algorithm 2). Own positions are the rows
// of every fragment, so that weights and their gradients go from product to product without leaving registers.
#pragma once

#include "backward.h"
#include "products.cuh"
#include "terms.cuh"

namespace foldase {

// Columns of a tile, fewer where the sums of more channels fill the registers or, in float32, shared memory.
template <class T, int kWidth>
constexpr int sweep_columns(bool two_sums) {
  if (kWidth == 32) return two_sums ? 32 : 64;
  return kWidth == 128 && (two_sums || sizeof(T) == 4) ? 16 : 32;
}

// Blocks that shall fit on a multiprocessor at once: their number decides how many registers a thread may have.
template <class T, int kWidth>
constexpr int sweep_blocks() {
  return kWidth == 32 && sizeof(T) == 2 ? 3 : kWidth == 64 ? 2 : 1;
}

// Weights from scores, and from the gradients of weights those of scores.
template <int kGroups, class Base, class Delta>
FOLDASE_DEVICE void differentiate(float (&weights)[kGroups][4], float (&grads)[kGroups][4], Base base, Delta delta) {
  FOLDASE_UNROLL
  for (int group = 0; group < kGroups; ++group) {
    FOLDASE_UNROLL
    for (int part = 0; part < 4; ++part) {
      weights[group][part] = exp2_fast(weights[group][part] - base(group, part));
      grads[group][part] = weights[group][part] * (grads[group][part] - delta(group, part));
    }
  }
}

// Writes 64 positions of a gradient.
template <class T, int kGroups>
FOLDASE_DEVICE void write_positions(const FoldaseTensor& to, const FoldaseAttention& sizes, const Work& work,
                                    const float (&sums)[kGroups][4], float factor) {
  if (to.data == nullptr) return;
  T* head = head_of<T>(to, work.batch, work.row, work.head);
  const bool pairs = in_pairs(to, head);
  const int width = static_cast<int>(sizes.width), lane = thread_index() % 32;
  FOLDASE_UNROLL
  for (int side = 0; side < 2; ++side) {
    const std::int64_t position = work.first + thread_index() / 32 * 16 + lane / 4 + 8 * side;
    if (position >= sizes.queries) continue;
    FOLDASE_UNROLL
    for (int group = 0; group < kGroups; ++group) {
      const int channel = 8 * group + 2 * (lane % 4);
      if (channel >= width) continue;
      store_pair(head + position * to.position + channel * to.channel, to.channel, pairs, channel + 1 < width,
                 sums[group][2 * side] * factor, sums[group][2 * side + 1] * factor);
    }
  }
}

template <class T, int kWidth, bool kKeysOwned>
struct Sweep {
  using Shape = Tile<T, kWidth>;
  static constexpr int kColumns = sweep_columns<T, kWidth>(kKeysOwned);
  // 128 channels of two tensors would take the registers that the sums need.
  using Product = Products<T, kWidth, kColumns, kWidth <= 64>;
  static constexpr int kGroups = Product::kScores;
  static constexpr int kOwn = kQueries * kWidth * static_cast<int>(sizeof(T));
  static constexpr int kTile = kColumns * kWidth * static_cast<int>(sizeof(T));
  static constexpr int kSums = kKeysOwned ? kColumns * 4 : 0;  // bytes of one sum of the queries of a tile
  static constexpr int kStage = 2 * kTile + 2 * kSums;
  static constexpr int kBytes = 2 * kOwn + 2 * kStage;
  static_assert(kBytes <= kSharedBytes);

  // A tile of both tensors that pass by, and where those are queries their two sums.
  struct Stage {
    T* first;
    T* second;
    float* base;
    float* delta;

    FOLDASE_DEVICE explicit Stage(int number) {
      unsigned char* start = shared_memory() + 2 * kOwn + number * kStage;
      first = reinterpret_cast<T*>(start);
      second = reinterpret_cast<T*>(start + kTile);
      base = reinterpret_cast<float*>(start + 2 * kTile);
      delta = base + kColumns;
    }

    FOLDASE_DEVICE void fill(const SweepArguments& arguments, const Head<T>& left, const Head<T>& right,
                             std::int64_t line, int start) const {
      fill_tile<T, kWidth, kColumns>(first, left, start);
      fill_tile<T, kWidth, kColumns>(second, right, start);
      if constexpr (kKeysOwned) {
        const int chunk = thread_index() % (kColumns / 4) * 4;
        const float* from = thread_index() < kColumns / 4 ? arguments.base : arguments.delta;
        float* to = thread_index() < kColumns / 4 ? base : delta;
        if (thread_index() < kColumns / 2) copy_async(to + chunk, from + line * arguments.line + start + chunk, true);
      }
    }
  };

  // The first column that can count, at a tile's beginning, and the end of those.
  static FOLDASE_DEVICE void columns_seen(const FoldaseAttention& terms, int first, int& begin, int& end) {
    begin = 0;
    end = static_cast<int>(terms.keys);
    if (terms.causal == 0) return;
    if constexpr (kKeysOwned) {
      const std::int64_t earliest = first + terms.keys - terms.queries;
      if (earliest > 0) begin = static_cast<int>(earliest < terms.keys ? earliest / kColumns * kColumns : terms.keys);
    } else {
      const std::int64_t last = first + kQueries < terms.queries ? first + kQueries : terms.queries;
      const std::int64_t seen = last + terms.keys - terms.queries;
      end = seen < 0 ? 0 : static_cast<int>(seen);
    }
  }

  // One tile: adds what its columns give to the gradients of the block's own positions.
  static FOLDASE_DEVICE void take_tile(const SweepArguments& arguments, const Work& work, const Stage& stage,
                                       const Product (&own)[2], const float (&sums)[2][2], int start,
                                       float (&first)[Product::kValues][4], float (&second)[Product::kValues][4]) {
    const FoldaseAttention& terms = arguments.terms;
    const int lane = thread_index() % 32;
    const Place place{work.first + thread_index() / 32 * 16 + lane / 4, start + 2 * (lane % 4),
                      static_cast<int>(terms.queries), static_cast<int>(terms.keys)};
    float weights[kGroups][4], grads[kGroups][4];
    own[0].score(weights, stage.first);
    finish_scores<kKeysOwned>(weights, terms, work.batch, work.row, work.head, place, start + kColumns);
    own[1].score(grads, stage.second);
    if constexpr (kKeysOwned) {
      const auto of = [&](const float* from, int group, int part) {
        return shared_load(from + 8 * group + 2 * (lane % 4) + part % 2);
      };
      differentiate(
          weights, grads, [&](int group, int part) { return of(stage.base, group, part); },
          [&](int group, int part) { return of(stage.delta, group, part); });
      Product::add(second, weights, stage.second);
    } else {
      differentiate(
          weights, grads, [&](int, int part) { return sums[0][part / 2]; },
          [&](int, int part) { return sums[1][part / 2]; });
    }
    Product::add(first, grads, stage.first);
  }

  static FOLDASE_DEVICE void run(const SweepArguments& arguments, const Work& work) {
    const FoldaseAttention& terms = arguments.terms;
    const std::int64_t line = (work.batch * terms.rows + work.row) * terms.heads + work.head;
    const Head<T> left(arguments.others[0], work.batch, work.row, work.head, terms.keys, terms.width);
    const Head<T> right(arguments.others[1], work.batch, work.row, work.head, terms.keys, terms.width);
    int begin, end;
    columns_seen(terms, work.first, begin, end);

    T* tiles[2] = {reinterpret_cast<T*>(shared_memory()), reinterpret_cast<T*>(shared_memory() + kOwn)};
    Product own[2];
    float sums[2][2] = {};
    float first[Product::kValues][4] = {}, second[Product::kValues][4] = {};
    FOLDASE_UNROLL
    for (int side = 0; side < 2; ++side) {
      const Head<T> head(arguments.own[side], work.batch, work.row, work.head, terms.queries, terms.width);
      fill_tile<T, kWidth, kQueries>(tiles[side], head, work.first);
      if constexpr (!kKeysOwned) {
        const std::int64_t query = work.first + thread_index() / 32 * 16 + thread_index() % 32 / 4 + 8 * side;
        sums[0][side] = global_load(arguments.base + line * arguments.line + query);
        sums[1][side] = global_load(arguments.delta + line * arguments.line + query);
      }
    }
    commit_copies();
    if (begin < end) Stage(0).fill(arguments, left, right, line, begin);
    commit_copies();
    wait_copies<1>();
    block_barrier();
    own[0].take(tiles[0]);
    own[1].take(tiles[1]);

    int number = 0;
    for (int start = begin; start < end; start += kColumns, number = 1 - number) {
      if (start + kColumns < end) {
        Stage(1 - number).fill(arguments, left, right, line, start + kColumns);
        commit_copies();
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      block_barrier();
      take_tile(arguments, work, Stage(number), own, sums, start, first, second);
      block_barrier();
    }
    write_positions<T>(arguments.grads[0], terms, work, first, terms.scale);
    if constexpr (kKeysOwned) write_positions<T>(arguments.grads[1], terms, work, second, 1.0f);
  }
};

template <class T, int kWidth, bool kKeysOwned>
FOLDASE_KERNEL void FOLDASE_THREADS(kThreads, (sweep_blocks<T, kWidth>()))
    attention_backward_sweep(FOLDASE_PARAMETER SweepArguments arguments) {
  const std::int64_t count = Work::count(arguments.terms);
  for (std::int64_t index = block_index(); index < count; index += block_count()) {
    Sweep<T, kWidth, kKeysOwned>::run(arguments, Work(arguments.terms, index));
    // The next positions must not overwrite those that a slower warp still reads.
    block_barrier();
  }
}

// The same scores with keys in the place of queries.
inline FoldaseAttention turned(FoldaseAttention own) {
  const std::int64_t queries = own.queries;
  own.queries = own.keys;
  own.keys = queries;
  for (FoldaseTerm* term : {&own.biases[0], &own.biases[1], &own.biases[2], &own.biases[3], &own.mask}) {
    const std::int64_t stride = term->query;
    term->query = term->key;
    term->key = stride;
  }
  return own;
}

template <class T, int kWidth>
std::string launch_sweeps(const FoldaseAttentionBackward& arguments, const Workspace& workspace, void* stream) {
  const FoldaseAttention& own = arguments.forward;
  const FoldaseTensor incoming = incoming_of(arguments, workspace);
  std::string problem;
  if (arguments.grad_k.data != nullptr || arguments.grad_v.data != nullptr) {
    const SweepArguments keys{turned(own),
                              {own.k, own.v},
                              {own.q, incoming},
                              {arguments.grad_k, arguments.grad_v},
                              workspace.base,
                              workspace.delta,
                              workspace.line};
    declare_backward(arguments, workspace);
    problem = launch(attention_backward_sweep<T, kWidth, true>, blocks_for(Work::count(keys.terms), own), kThreads,
                     Sweep<T, kWidth, true>::kBytes, stream, keys);
  }
  if (!problem.empty() || arguments.grad_q.data == nullptr) return problem;
  const SweepArguments queries{own,
                               {own.q, incoming},
                               {own.k, own.v},
                               {arguments.grad_q, {}},
                               workspace.base,
                               workspace.delta,
                               workspace.line};
  declare_backward(arguments, workspace);
  return launch(attention_backward_sweep<T, kWidth, false>, blocks_for(Work::count(own), own), kThreads,
                Sweep<T, kWidth, false>::kBytes, stream, queries);
}

}  // namespace foldase
