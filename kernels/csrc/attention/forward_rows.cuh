// One pass over the keys for 64 queries of one row, or of kRows rows that share a bias (its row stride is 0). Then the
// tile of the bias is loaded, converted and brought to powers of two once and stays in registers while the rows take
// their turns: of all that a score needs only the bias is as large as the scores, and rows read it again and again.
//
// Tiles in which a row's mask allows no key are neither copied nor computed for that row. Both ways of running give the
// same bits: a row's own operations and their order do not depend on its neighbours.
#pragma once

#include "products.cuh"
#include "softmax.cuh"

namespace foldase {

template <class T, int kWidth, int kRows>
struct Forward {
  using Shape = Tile<T, kWidth>;
  static constexpr int kKeys = Shape::kKeys;
  using Product = Products<T, kWidth, kKeys>;
  static constexpr int kGroups = Product::kScores;
  static constexpr int kOwn = kQueries * kWidth;  // elements of the queries of a row
  static constexpr int kTile = kKeys * kWidth;    // elements of a tile of keys or values
  static constexpr int kBytes = kRows * (kOwn + 4 * kTile) * static_cast<int>(sizeof(T));

  // A tile of keys, and the rows that have something to see in it, one bit each.
  struct Step {
    int tile;
    unsigned rows;
  };

  const FoldaseAttention& arguments;
  const Work& work;
  int rows;   // of this block
  int tiles;  // of keys that its queries may see

  FOLDASE_DEVICE Forward(const FoldaseAttention& all, const Work& own) : arguments(all), work(own) {
    const std::int64_t left = arguments.rows - work.row;
    rows = left < kRows ? static_cast<int>(left) : kRows;
    tiles = (keys_seen(arguments, work.first) + kKeys - 1) / kKeys;
  }

  // The next tile with something to see. Every warp reads the same bytes of the mask, so all come to the same answer.
  FOLDASE_DEVICE Step next(int tile) const {
    const unsigned all = (1u << rows) - 1u;
    if (arguments.mask.data == nullptr || arguments.mask.query != 0) return {tile, all};
    const int lane = thread_index() % 32, keys = static_cast<int>(arguments.keys);
    for (; tile < tiles; ++tile) {
      unsigned seen = 0;
      FOLDASE_UNROLL
      for (int row = 0; row < kRows; ++row) {
        if (row >= rows) continue;
        const Term<unsigned char> mask(arguments.mask, work.batch, work.row + row, work.head);
        bool any = false;
        FOLDASE_UNROLL
        for (int place = 0; place < kKeys; place += 32) {
          const int key = tile * kKeys + place + lane;
          if (key < keys && global_load(mask.data + key * mask.key) != 0) any = true;
        }
        if (any_lane(any)) seen |= 1u << row;
      }
      if (seen != 0) return {tile, seen};
    }
    return {tile, 0u};
  }

  static FOLDASE_DEVICE T* queries_of(int row) { return reinterpret_cast<T*>(shared_memory()) + row * kOwn; }

  // A tile of keys; that of the values follows. There are two of each for every row.
  static FOLDASE_DEVICE T* keys_of(int row, int side) {
    return reinterpret_cast<T*>(shared_memory()) + kRows * kOwn + (2 * row + side) * 2 * kTile;
  }

  FOLDASE_DEVICE void fill_queries() const {
    FOLDASE_UNROLL
    for (int row = 0; row < kRows; ++row) {
      if (row >= rows) continue;
      const Head<T> q(arguments.q, work.batch, work.row + row, work.head, arguments.queries, arguments.width);
      fill_tile<T, kWidth, kQueries>(queries_of(row), q, work.first);
    }
  }

  FOLDASE_DEVICE void fill(const Step& step, int side) const {
    FOLDASE_UNROLL
    for (int row = 0; row < kRows; ++row) {
      if ((step.rows >> row & 1u) == 0) continue;
      const std::int64_t own = work.row + row;
      const Head<T> k(arguments.k, work.batch, own, work.head, arguments.keys, arguments.width);
      const Head<T> v(arguments.v, work.batch, own, work.head, arguments.keys, arguments.width);
      fill_tile<T, kWidth, kKeys>(keys_of(row, side), k, step.tile * kKeys);
      fill_tile<T, kWidth, kKeys>(keys_of(row, side) + kTile, v, step.tile * kKeys);
    }
  }

  // What one row has after all tiles so far.
  struct Row {
    Product product;
    Softmax<kGroups, Product::kValues> softmax;
    float out[Product::kValues][4] = {};
  };

  FOLDASE_DEVICE void take_tile(Row& own, int row, const float (&shared)[kGroups][4], const Place& place, int end,
                                const T* keys) const {
    float scores[kGroups][4];
    own.product.score(scores, keys);
    if constexpr (kRows > 1) {
      FOLDASE_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        FOLDASE_UNROLL
        for (int part = 0; part < 4; ++part) {
          scores[group][part] = fused(scores[group][part], arguments.scale * kLog2E, shared[group][part]);
        }
      }
    }
    finish_scores<false>(scores, arguments, work.batch, work.row + row, work.head, place, end, kRows > 1 ? 1 : 0);
    own.softmax.add(scores, own.out);
    own.product.add(own.out, scores, keys + kTile);
  }

  FOLDASE_DEVICE void run() const {
    const int lane = thread_index() % 32;
    const int query = work.first + thread_index() / 32 * 16 + lane / 4;
    Row own[kRows];
    fill_queries();
    commit_copies();
    Step step = next(0);
    if (step.tile < tiles) fill(step, 0);
    commit_copies();
    wait_copies<1>();
    block_barrier();
    FOLDASE_UNROLL
    for (int row = 0; row < kRows; ++row) {
      if (row < rows) own[row].product.take(queries_of(row));
    }

    int side = 0;
    while (step.tile < tiles) {
      const Step later = next(step.tile + 1);
      const Place place{query, step.tile * kKeys + 2 * (lane % 4), static_cast<int>(arguments.queries),
                        static_cast<int>(arguments.keys)};
      float shared[kGroups][4] = {};
      if (later.tile < tiles) {
        fill(later, 1 - side);
        commit_copies();
      }
      // The bias comes from far away: it is asked for before the wait.
      if constexpr (kRows > 1) add_bias(shared, 1.0f, arguments.biases[0], work.batch, work.row, work.head, place);
      if (later.tile < tiles) {
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      block_barrier();
      FOLDASE_UNROLL
      for (int row = 0; row < kRows; ++row) {
        if ((step.rows >> row & 1u) != 0) {
          take_tile(own[row], row, shared, place, (step.tile + 1) * kKeys, keys_of(row, side));
        }
      }
      block_barrier();
      step = later;
      side = 1 - side;
    }
    FOLDASE_UNROLL
    for (int row = 0; row < kRows; ++row) {
      if (row >= rows) continue;
      own[row].softmax.finish();
      Work one = work;
      one.row += row;
      write_result<T>(arguments, one, own[row].softmax, own[row].out, query);
    }
  }
};

}  // namespace foldase
