// The two matrix products of a tile: scores = q k^T and out += weights v, on tensor cores for 16-bit inputs and with
// fused multiply-adds for float32.
//
// Both keep the same fragments. Of the 16 queries of a warp a lane holds queries g = lane / 4 and g + 8, and of each
// group of eight columns the two at 2 (lane % 4): part 0 and 1 of a group belong to query g, part 2 and 3 to g + 8.
#pragma once

#include "tiles.cuh"

namespace foldase {

template <class T, int kWidth>
struct Products {
  using Shape = Tile<T, kWidth>;
  static constexpr int kScores = Shape::kKeys / 8;  // groups of eight keys
  static constexpr int kValues = kWidth / 8;        // groups of eight channels

  std::uint32_t queries[kWidth / 16][4];

  // Takes the 16 queries of this warp into registers.
  FOLDASE_DEVICE void take_queries(const T* tile) {
    const int lane = thread_index() % 32, warp = thread_index() / 32;
    FOLDASE_UNROLL
    for (int step = 0; step < kWidth / 16; ++step) {
      load_matrices(queries[step], tile + Shape::at(16 * warp + lane % 16, 16 * step + lane / 16 * 8));
    }
  }

  FOLDASE_DEVICE void score(float (&scores)[kScores][4], const T* keys) const {
    const int lane = thread_index() % 32;
    FOLDASE_UNROLL
    for (int group = 0; group < kScores; ++group) {
      FOLDASE_UNROLL
      for (int part = 0; part < 4; ++part) scores[group][part] = 0.0f;
    }
    FOLDASE_UNROLL
    for (int step = 0; step < kWidth / 16; ++step) {
      FOLDASE_UNROLL
      for (int group = 0; group < kScores; group += 2) {
        std::uint32_t b[4];
        load_matrices(b, keys + Shape::at(8 * group + lane % 8 + lane / 16 * 8, 16 * step + lane / 8 % 2 * 8));
        multiply_add<T>(scores[group], queries[step], b[0], b[1]);
        multiply_add<T>(scores[group + 1], queries[step], b[2], b[3]);
      }
    }
  }

  FOLDASE_DEVICE void add_values(float (&out)[kValues][4], const float (&weights)[kScores][4], const T* values) const {
    const int lane = thread_index() % 32;
    FOLDASE_UNROLL
    for (int step = 0; step < Shape::kKeys / 16; ++step) {
      const float(&left)[4] = weights[2 * step];
      const float(&right)[4] = weights[2 * step + 1];
      const std::uint32_t a[4] = {pack<T>(left[0], left[1]), pack<T>(left[2], left[3]), pack<T>(right[0], right[1]),
                                  pack<T>(right[2], right[3])};
      FOLDASE_UNROLL
      for (int group = 0; group < kValues; group += 2) {
        std::uint32_t b[4];
        load_matrices_transposed(b, values + Shape::at(16 * step + lane % 16, 8 * group + lane / 16 * 8));
        multiply_add<T>(out[group], a, b[0], b[1]);
        multiply_add<T>(out[group + 1], a, b[2], b[3]);
      }
    }
  }
};

template <int kWidth>
struct Products<float, kWidth> {
  using Shape = Tile<float, kWidth>;
  static constexpr int kScores = Shape::kKeys / 8;
  static constexpr int kValues = kWidth / 8;

  const float* queries;

  FOLDASE_DEVICE void take_queries(const float* tile) { queries = tile; }

  FOLDASE_DEVICE void score(float (&scores)[kScores][4], const float* keys) const {
    const int lane = thread_index() % 32;
    const int query = thread_index() / 32 * 16 + lane / 4;
    FOLDASE_UNROLL
    for (int group = 0; group < kScores; ++group) {
      FOLDASE_UNROLL
      for (int part = 0; part < 4; ++part) scores[group][part] = 0.0f;
    }
    FOLDASE_NO_UNROLL
    for (int channel = 0; channel < kWidth; channel += 4) {
      const Quad above = load(queries, query, channel);
      const Quad below = load(queries, query + 8, channel);
      FOLDASE_UNROLL
      for (int group = 0; group < kScores; ++group) {
        FOLDASE_UNROLL
        for (int side = 0; side < 2; ++side) {
          const Quad key = load(keys, 8 * group + 2 * (lane % 4) + side, channel);
          FOLDASE_UNROLL
          for (int offset = 0; offset < 4; ++offset) {
            scores[group][side] += above.values[offset] * key.values[offset];
            scores[group][2 + side] += below.values[offset] * key.values[offset];
          }
        }
      }
    }
  }

  // Every lane of a quad needs all weights of its two queries: they are passed around key by key.
  FOLDASE_DEVICE void add_values(float (&out)[kValues][4], const float (&weights)[kScores][4], const float* values) const {
    const int lane = thread_index() % 32;
    // Where this lane's channels of an even and of an odd position lie; the rest of the permutation is constant.
    const float* own[2] = {values + Shape::at(0, 2 * (lane % 4)), values + Shape::at(1, 2 * (lane % 4)) - kWidth};
    FOLDASE_UNROLL
    for (int key = 0; key < Shape::kKeys; ++key) {
      const int owner = lane / 4 * 4 + key % 8 / 2;
      const float above = shuffle(weights[key / 8][key % 2], owner);
      const float below = shuffle(weights[key / 8][2 + key % 2], owner);
      FOLDASE_UNROLL
      for (int group = 0; group < kValues; ++group) {
        const float* from = own[key % 2] + key * kWidth + ((2 * group) ^ (key % 8 & ~1)) * Shape::kChunk;
        const Pair<float> value = shared_load(reinterpret_cast<const Pair<float>*>(from));
        out[group][0] += above * value.low;
        out[group][1] += above * value.high;
        out[group][2] += below * value.low;
        out[group][3] += below * value.high;
      }
    }
  }

 private:
  static FOLDASE_DEVICE Quad load(const float* tile, int position, int channel) {
    return shared_load(reinterpret_cast<const Quad*>(tile + Shape::at(position, channel)));
  }
};

}  // namespace foldase
