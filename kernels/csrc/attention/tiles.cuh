// Tiles of q, k and v in shared memory: their shape, where a chunk of 16 bytes lies, and how they are filled.
#pragma once

#include "../common/device.cuh"
#include "arguments.h"

namespace foldase {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kQueries = 16 * kWarps;  // of a block; each warp owns 16

constexpr int kSharedBytes = 99 * 1024;  // that a block has on every device

// What a block works on: 64 queries of one head, of one row or of several that it takes together.
struct Work {
  std::int64_t batch, row, head;
  int first;

  // Neighbouring blocks differ in their queries, so that those running at the same time share keys and values.
  FOLDASE_DEVICE Work(const FoldaseAttention& arguments, std::int64_t index, int together = 1) {
    const std::int64_t tiles = (arguments.queries + kQueries - 1) / kQueries;
    const std::int64_t groups = (arguments.rows + together - 1) / together;
    first = static_cast<int>(index % tiles) * kQueries;
    index /= tiles;
    head = index % arguments.heads;
    index /= arguments.heads;
    row = index % groups * together;
    batch = index / groups;
  }

  // How many there are.
  static FOLDASE_BOTH std::int64_t count(const FoldaseAttention& arguments, int together = 1) {
    const std::int64_t tiles = (arguments.queries + kQueries - 1) / kQueries;
    return tiles * arguments.heads * ((arguments.rows + together - 1) / together) * arguments.batches;
  }
};

// Blocks to start for a number of pieces of work.
inline std::int64_t blocks_for(std::int64_t count, const FoldaseAttention& arguments) {
  const std::int64_t limit = arguments.block_limit > 0 ? arguments.block_limit : 2147483647;
  return count < limit ? count : limit;
}

// A tile of positions of one head, in rows of kWidth elements of type T.
template <class T, int kWidth>
struct Tile {
  static constexpr int kChunk = 16 / static_cast<int>(sizeof(T));  // elements of a chunk
  static constexpr int kChunks = kWidth / kChunk;                  // chunks of a position
  // Keys of a tile; fewer for 128 channels, which fill the registers, and in float32 shared memory.
  static constexpr int kKeys = kWidth == 128 ? 32 : 64;

  // Where an element lies. Chunks are permuted so that eight positions, read at one chunk, lie in eight groups of banks.
  static FOLDASE_DEVICE int at(int position, int channel) {
    const int turn = kChunks >= 8 ? position % 8 : position / (8 / kChunks) % kChunks;
    return position * kWidth + ((channel / kChunk) ^ turn) * kChunk + channel % kChunk;
  }
};

// Where a head of a row begins.
template <class T>
FOLDASE_DEVICE T* head_of(const FoldaseTensor& tensor, std::int64_t batch, std::int64_t row, std::int64_t head) {
  return static_cast<T*>(tensor.data) + batch * tensor.batch + row * tensor.row + head * tensor.head;
}

// One head of one row: where its positions begin and how far they are apart.
template <class T>
struct Head {
  const T* data;
  std::int64_t position;
  std::int64_t channel;
  int positions;
  int width;
  bool chunks;  // whether 16 bytes can be copied at once

  FOLDASE_DEVICE Head(const FoldaseTensor& tensor, std::int64_t batch, std::int64_t row, std::int64_t head,
                      std::int64_t count, std::int64_t channels)
      : data(head_of<T>(tensor, batch, row, head)),
        position(tensor.position),
        channel(tensor.channel),
        positions(static_cast<int>(count)),
        width(static_cast<int>(channels)) {
    constexpr int kChunk = 16 / static_cast<int>(sizeof(T));
    chunks = channel == 1 && position % kChunk == 0 && width % kChunk == 0 &&
             reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  }
};

// Copies a tile whose chunks can be copied whole.
template <class T, int kWidth, int kPositions>
FOLDASE_DEVICE void fill_chunks(T* tile, const Head<T>& head, int first) {
  using Shape = Tile<T, kWidth>;
  constexpr int kStep = kThreads / Shape::kChunks;  // positions filled at once
  const int channel = thread_index() % Shape::kChunks * Shape::kChunk;
  const T* from = head.data + (first + thread_index() / Shape::kChunks) * head.position + channel;
  FOLDASE_UNROLL
  for (int start = 0; start < kPositions; start += kStep) {
    const int place = start + thread_index() / Shape::kChunks;
    const bool inside = first + place < head.positions && channel < head.width;
    copy_async(tile + Shape::at(place, channel), inside ? from : head.data, inside);
    from += kStep * head.position;
  }
}

// Fills a tile element by element: odd widths, strides or addresses.
template <class T, int kWidth, int kPositions>
FOLDASE_DEVICE void fill_elements(T* tile, const Head<T>& head, int first) {
  using Shape = Tile<T, kWidth>;
  FOLDASE_NO_UNROLL
  for (int index = thread_index(); index < kPositions * Shape::kChunks; index += kThreads) {
    const int place = index / Shape::kChunks;
    const int channel = index % Shape::kChunks * Shape::kChunk;
    const T* from = head.data + (first + place) * head.position + channel * head.channel;
    T values[Shape::kChunk];
    FOLDASE_UNROLL
    for (int offset = 0; offset < Shape::kChunk; ++offset) {
      const bool inside = first + place < head.positions && channel + offset < head.width;
      values[offset] = inside ? global_load(from + offset * head.channel) : T{};
    }
    Chunk chunk;
    memcpy(&chunk, values, sizeof(chunk));
    shared_store(reinterpret_cast<Chunk*>(tile + Shape::at(place, channel)), chunk);
  }
}

// Fills a tile with kPositions positions from `first` on, zero beyond the last one and beyond the width. Chunks are
// copied asynchronously: the caller commits, waits, and puts a barrier before the tile is read.
template <class T, int kWidth, int kPositions>
FOLDASE_DEVICE void fill_tile(T* tile, const Head<T>& head, int first) {
  if (head.chunks) {
    fill_chunks<T, kWidth, kPositions>(tile, head, first);
  } else {
    fill_elements<T, kWidth, kPositions>(tile, head, first);
  }
}

// Writes two neighbouring channels, at once where `pairs` says that they can be; without `both` the first alone.
template <class T>
FOLDASE_DEVICE void store_pair(T* to, std::int64_t channel, bool pairs, bool both, float low, float high) {
  if (pairs && both) {
    global_store(reinterpret_cast<Pair<T>*>(to), Pair<T>{from_float<T>(low), from_float<T>(high)});
    return;
  }
  global_store(to, from_float<T>(low));
  if (both) global_store(to + channel, from_float<T>(high));
}

// Whether two neighbouring channels, the first of them even, can be read or written at once.
template <class T>
FOLDASE_DEVICE bool in_pairs(const FoldaseTensor& tensor, const T* head) {
  return tensor.channel == 1 && tensor.position % 2 == 0 && reinterpret_cast<std::uintptr_t>(head) % (2 * sizeof(T)) == 0;
}

}  // namespace foldase
