// The two matrix products of a tile: scores = own columns^T and out += weights columns, on tensor cores for 16-bit
// inputs and with fused multiply-adds for float32. In the forward pass a block's own positions are queries, the columns
// keys or values; the backward pass has it the other way round too.
//
// Both keep the same fragments. Of the 16 positions of a warp a lane holds g = lane / 4 and g + 8, and of each group of
// eight columns the two at 2 (lane % 4): part 0 and 1 of a group belong to position g, part 2 and 3 to g + 8.
#pragma once

#include "tiles.cuh"

namespace foldase {

// kHeld: whether the own positions stay in registers; else they are read from shared memory for every tile.
template <class T, int kWidth, int kColumns, bool kHeld = true>
struct Products {
  using Shape = Tile<T, kWidth>;
  static constexpr int kScores = kColumns / 8;  // groups of eight columns
  static constexpr int kValues = kWidth / 8;    // groups of eight channels

  const T* tile;
  std::uint32_t held[kHeld ? kWidth / 16 : 1][4];

  // Takes the 16 positions of this warp from a tile, which must stay as it is where they are not held.
  FOLDASE_DEVICE void take(const T* own) {
    tile = own;
    if constexpr (kHeld) {
      FOLDASE_UNROLL
      for (int step = 0; step < kWidth / 16; ++step) load_own(held[step], step);
    }
  }

  FOLDASE_DEVICE void score(float (&scores)[kScores][4], const T* columns) const {
    FOLDASE_UNROLL
    for (int group = 0; group < kScores; ++group) {
      FOLDASE_UNROLL
      for (int part = 0; part < 4; ++part) scores[group][part] = 0.0f;
    }
    FOLDASE_UNROLL
    for (int step = 0; step < kWidth / 16; ++step) {
      if constexpr (kHeld) {
        score_step(scores, held[step], columns, step);
      } else {
        std::uint32_t a[4];
        load_own(a, step);
        score_step(scores, a, columns, step);
      }
    }
  }

  static FOLDASE_DEVICE void add(float (&out)[kValues][4], const float (&weights)[kScores][4], const T* columns) {
    const int lane = thread_index() % 32;
    FOLDASE_UNROLL
    for (int step = 0; step < kColumns / 16; ++step) {
      const float(&left)[4] = weights[2 * step];
      const float(&right)[4] = weights[2 * step + 1];
      const std::uint32_t a[4] = {pack<T>(left[0], left[1]), pack<T>(left[2], left[3]), pack<T>(right[0], right[1]),
                                  pack<T>(right[2], right[3])};
      FOLDASE_UNROLL
      for (int group = 0; group < kValues; group += 2) {
        std::uint32_t b[4];
        load_matrices_transposed(b, columns + Shape::at(16 * step + lane % 16, 8 * group + lane / 16 * 8));
        multiply_add<T>(out[group], a, b[0], b[1]);
        multiply_add<T>(out[group + 1], a, b[2], b[3]);
      }
    }
  }

 private:
  FOLDASE_DEVICE void load_own(std::uint32_t (&a)[4], int step) const {
    const int lane = thread_index() % 32, warp = thread_index() / 32;
    load_matrices(a, tile + Shape::at(16 * warp + lane % 16, 16 * step + lane / 16 * 8));
  }

  // Sixteen channels of the scores.
  static FOLDASE_DEVICE void score_step(float (&scores)[kScores][4], const std::uint32_t (&a)[4], const T* columns,
                                        int step) {
    const int lane = thread_index() % 32;
    FOLDASE_UNROLL
    for (int group = 0; group < kScores; group += 2) {
      std::uint32_t b[4];
      load_matrices(b, columns + Shape::at(8 * group + lane % 8 + lane / 16 * 8, 16 * step + lane / 8 % 2 * 8));
      multiply_add<T>(scores[group], a, b[0], b[1]);
      multiply_add<T>(scores[group + 1], a, b[2], b[3]);
    }
  }
};

template <int kWidth, int kColumns, bool kHeld>
struct Products<float, kWidth, kColumns, kHeld> {
  using Shape = Tile<float, kWidth>;
  static constexpr int kScores = kColumns / 8;
  static constexpr int kValues = kWidth / 8;

  const float* tile;

  FOLDASE_DEVICE void take(const float* own) { tile = own; }

  FOLDASE_DEVICE void score(float (&scores)[kScores][4], const float* columns) const {
    const int lane = thread_index() % 32;
    const int position = thread_index() / 32 * 16 + lane / 4;
    FOLDASE_UNROLL
    for (int group = 0; group < kScores; ++group) {
      FOLDASE_UNROLL
      for (int part = 0; part < 4; ++part) scores[group][part] = 0.0f;
    }
    FOLDASE_NO_UNROLL
    for (int channel = 0; channel < kWidth; channel += 4) {
      const Quad above = load(tile, position, channel);
      const Quad below = load(tile, position + 8, channel);
      FOLDASE_UNROLL
      for (int group = 0; group < kScores; ++group) {
        FOLDASE_UNROLL
        for (int side = 0; side < 2; ++side) {
          const Quad column = load(columns, 8 * group + 2 * (lane % 4) + side, channel);
          FOLDASE_UNROLL
          for (int offset = 0; offset < 4; ++offset) {
            scores[group][side] += above.values[offset] * column.values[offset];
            scores[group][2 + side] += below.values[offset] * column.values[offset];
          }
        }
      }
    }
  }

  // Every lane of a quad needs all weights of its two positions: they are passed around column by column.
  static FOLDASE_DEVICE void add(float (&out)[kValues][4], const float (&weights)[kScores][4], const float* columns) {
    const int lane = thread_index() % 32;
    // Where this lane's channels of an even and of an odd position lie; the rest of the permutation is constant.
    const float* own[2] = {columns + Shape::at(0, 2 * (lane % 4)), columns + Shape::at(1, 2 * (lane % 4)) - kWidth};
    FOLDASE_UNROLL
    for (int column = 0; column < kColumns; ++column) {
      const int owner = lane / 4 * 4 + column % 8 / 2;
      const float above = shuffle(weights[column / 8][column % 2], owner);
      const float below = shuffle(weights[column / 8][2 + column % 2], owner);
      FOLDASE_UNROLL
      for (int group = 0; group < kValues; ++group) {
        const float* from = own[column % 2] + column * kWidth + ((2 * group) ^ (column % 8 & ~1)) * Shape::kChunk;
        const Pair<float> value = shared_load(reinterpret_cast<const Pair<float>*>(from));
        out[group][0] += above * value.low;
        out[group][1] += above * value.high;
        out[group][2] += below * value.low;
        out[group][3] += below * value.high;
      }
    }
  }

 private:
  static FOLDASE_DEVICE Quad load(const float* from, int position, int channel) {
    return shared_load(reinterpret_cast<const Quad*>(from + Shape::at(position, channel)));
  }
};

}  // namespace foldase
