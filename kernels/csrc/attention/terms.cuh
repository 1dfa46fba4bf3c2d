// What changes the scores of a tile after q k^T: biases, ALiBi, the mask, the order of positions, the last key.
#pragma once

#include "tiles.cuh"

namespace foldase {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// Which of a lane's scores is which: queries `query` and `query` + 8, keys `key` + 8 group and the one after. Where a
// block owns keys (kTurned) the two words have changed places, here and in the arguments.
struct Place {
  int query;
  int key;
  int queries;
  int keys;
};

// One bias or mask, seen by one head of one row.
template <class T>
struct Term {
  const T* data;
  std::int64_t query;
  std::int64_t key;
  bool pairs;  // whether two neighbouring keys can be loaded at once

  FOLDASE_DEVICE Term(const FoldaseTerm& term, std::int64_t batch, std::int64_t row, std::int64_t head)
      : data(static_cast<const T*>(term.data) + batch * term.batch + row * term.row + head * term.head),
        query(term.query),
        key(term.key) {
    pairs = key == 1 && query % 2 == 0 && reinterpret_cast<std::uintptr_t>(data) % (2 * sizeof(T)) == 0;
  }
};

// scores = factor scores + term, which is 0 where there is no query or key.
template <class T, int kGroups>
FOLDASE_DEVICE void add_term(float (&scores)[kGroups][4], float factor, const Term<T>& term, const Place& place) {
  FOLDASE_UNROLL
  for (int side = 0; side < 2; ++side) {
    const int row = place.query + 8 * side;
    if (row >= place.queries) continue;
    const T* line = term.data + row * term.query + place.key * term.key;
    const auto add = [&](int group, int part, T value) {
      float& score = scores[group][2 * side + part];
      score = fused(score, factor, to_float(value) * kLog2E);
    };
    if (term.pairs && place.key + 8 * kGroups <= place.keys) {
      FOLDASE_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        const Pair<T> pair = global_load(reinterpret_cast<const Pair<T>*>(line + 8 * group));
        add(group, 0, pair.low);
        add(group, 1, pair.high);
      }
      continue;
    }
    FOLDASE_UNROLL
    for (int group = 0; group < kGroups; ++group) {
      const int column = place.key + 8 * group;
      if (column < place.keys) add(group, 0, global_load(line));
      if (column + 1 < place.keys) add(group, 1, global_load(line + term.key));
      line += 8 * term.key;
    }
  }
}

template <int kGroups>
FOLDASE_DEVICE void add_bias(float (&scores)[kGroups][4], float factor, const FoldaseTerm& bias, std::int64_t batch,
                             std::int64_t row, std::int64_t head, const Place& place) {
  if (bias.dtype == FOLDASE_FLOAT32) {
    add_term(scores, factor, Term<float>(bias, batch, row, head), place);
  } else if (bias.dtype == FOLDASE_BFLOAT16) {
    add_term(scores, factor, Term<BFloat16>(bias, batch, row, head), place);
  } else {
    add_term(scores, factor, Term<Float16>(bias, batch, row, head), place);
  }
}

// How far the key of a score lies ahead of its query.
FOLDASE_DEVICE int offset_of(const Place& place, int group, int part) {
  return place.key + 8 * group + part % 2 - (place.query + part / 2 * 8) - (place.keys - place.queries);
}

// Applies the slopes of ALiBi (Press et al. 2022), given in powers of two.
template <int kGroups>
FOLDASE_DEVICE void add_distances(float (&scores)[kGroups][4], float slope, const Place& place) {
  FOLDASE_UNROLL
  for (int group = 0; group < kGroups; ++group) {
    FOLDASE_UNROLL
    for (int part = 0; part < 4; ++part) {
      const int offset = offset_of(place, group, part);
      scores[group][part] -= slope * static_cast<float>(offset < 0 ? -offset : offset);
    }
  }
}

// Sets scores that must not count to minus infinity: those beyond the last key and of later keys.
template <bool kTurned, int kGroups>
FOLDASE_DEVICE void cut_keys(float (&scores)[kGroups][4], bool causal, const Place& place) {
  FOLDASE_UNROLL
  for (int group = 0; group < kGroups; ++group) {
    FOLDASE_UNROLL
    for (int part = 0; part < 4; ++part) {
      const bool beyond = place.key + 8 * group + part % 2 >= place.keys;
      const int ahead = kTurned ? -offset_of(place, group, part) : offset_of(place, group, part);
      if (beyond || (causal && ahead > 0)) scores[group][part] = -INFINITY;
    }
  }
}

// Sets the scores of masked keys to minus infinity.
template <int kGroups>
FOLDASE_DEVICE void apply_mask(float (&scores)[kGroups][4], const Term<unsigned char>& mask, const Place& place) {
  FOLDASE_UNROLL
  for (int side = 0; side < 2; ++side) {
    const int row = place.query + 8 * side;
    if (row >= place.queries) continue;
    const unsigned char* line = mask.data + row * mask.query + place.key * mask.key;
    FOLDASE_UNROLL
    for (int group = 0; group < kGroups; ++group) {
      const int column = place.key + 8 * group;
      if (column < place.keys && global_load(line) == 0) scores[group][2 * side] = -INFINITY;
      if (column + 1 < place.keys && global_load(line + mask.key) == 0) scores[group][2 * side + 1] = -INFINITY;
      line += 8 * mask.key;
    }
  }
}

// Turns products of queries and keys into scores in powers of two: factor, biases, ALiBi, mask, order, last key. `end`:
// of the keys of the tile. With `done` = 1 the scores hold the factor and the first bias already.
template <bool kTurned, int kGroups>
FOLDASE_DEVICE void finish_scores(float (&scores)[kGroups][4], const FoldaseAttention& arguments, std::int64_t batch,
                                  std::int64_t row, std::int64_t head, const Place& place, int end, int done = 0) {
  const float factor = arguments.scale * kLog2E;
  if (arguments.bias_count == 0) {
    FOLDASE_UNROLL
    for (int group = 0; group < kGroups; ++group) {
      FOLDASE_UNROLL
      for (int part = 0; part < 4; ++part) scores[group][part] *= factor;
    }
  }
  // Products beyond the last query or key are 0, so it does no harm that they miss the factor.
  for (int number = done; number < arguments.bias_count; ++number) {
    add_bias(scores, number == 0 ? factor : 1.0f, arguments.biases[number], batch, row, head, place);
  }
  if (arguments.slopes != nullptr) {
    add_distances(scores, global_load(arguments.slopes + head) * kLog2E, place);
  }
  if (arguments.mask.data != nullptr) {
    apply_mask(scores, Term<unsigned char>(arguments.mask, batch, row, head), place);
  }
  if (arguments.causal != 0 || end > place.keys) cut_keys<kTurned>(scores, arguments.causal != 0, place);
}

}  // namespace foldase
