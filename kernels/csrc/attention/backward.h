// What the kernels of the backward pass share: which memory each works on, and the sums a query keeps for them.
#pragma once

#include <string>

#include "interface.h"

namespace foldase {

// Tiles of keys and queries that a bias gradient is summed by, and blocks that keep a device busy: with fewer pieces
// of work than this the sum is cut into groups. A constant, not the device's, so that devices give the same bits.
constexpr std::int64_t kBusy = 512;

inline std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

// The workspace. Line `(batch rows + row) heads + head` of both sums has a place for every query, rounded up to whole
// tiles, so that tiles are read without a look at the end.
struct Workspace {
  float* base;             // log-sum-exp in powers of two; infinity where a query sees no key, or is none
  float* delta;            // sum(grad_out out) - grad_lse; 0 there
  std::int64_t line;       // queries of a line
  void* incoming;          // grad_out times the sigmoid of the gate, [.., query, channel]; only with a gate
  std::int64_t pitch;      // channels of a query there
  float* partials;         // of a bias gradient
  std::int64_t bytes;      // of everything

  Workspace(const FoldaseAttentionBackward& arguments, std::int64_t partial_bytes) {
    const FoldaseAttention& own = arguments.forward;
    const std::int64_t lines = own.batches * own.rows * own.heads;
    line = round_up(own.queries, 64);
    pitch = round_up(own.width, 8);
    auto* start = static_cast<unsigned char*>(arguments.workspace);
    base = reinterpret_cast<float*>(start);
    delta = base + lines * line;
    bytes = 2 * lines * line * static_cast<std::int64_t>(sizeof(float));
    incoming = start + bytes;
    if (own.gate.data != nullptr) bytes += round_up(lines * own.queries * pitch * dtype_bytes(own.dtype), 16);
    partials = reinterpret_cast<float*>(start + bytes);
    bytes += partial_bytes;
  }
};

// What reaches the attention itself: grad_out, or with a gate what the prologue made of it.
inline FoldaseTensor incoming_of(const FoldaseAttentionBackward& arguments, const Workspace& workspace) {
  const FoldaseAttention& own = arguments.forward;
  if (own.gate.data == nullptr) return arguments.grad_out;
  const std::int64_t head = own.queries * workspace.pitch, row = own.heads * head;
  return {workspace.incoming, own.rows * row, row, workspace.pitch, head, 1};
}

// Both products of a block's own positions with those that pass by: own[0] others[0]^T are the scores, own[1]
// others[1]^T the gradient of the weights. Where the block owns keys, queries and keys have changed places in `terms`.
struct SweepArguments {
  FoldaseAttention terms;  // sizes and what changes the scores
  FoldaseTensor own[2];
  FoldaseTensor others[2];
  FoldaseTensor grads[2];  // of own[0] and own[1]; absent where they are not wanted
  const float* base;
  const float* delta;
  std::int64_t line;
};

// How the gradient of one bias is summed. A dimension belongs to the program where the bias has it, and to the steps
// where the bias broadcasts: batch, row, head, tiles of queries, tiles of keys. Steps are cut into groups.
struct BiasPlan {
  int owned[5];
  int summed[5];
  std::int64_t programs, steps, group_steps, groups;
  int tile_queries, tile_keys;  // of a program's result: those of a tile, or 1 where they are summed

  std::int64_t partial_bytes() const { return groups == 1 ? 0 : programs * groups * tile_queries * tile_keys * 4; }
};

struct BiasArguments {
  FoldaseAttention terms;
  FoldaseTensor incoming;
  FoldaseTerm grad;
  BiasPlan plan;
  const float* base;
  const float* delta;
  std::int64_t line;
  float* partials;
};

struct PrologueArguments {
  FoldaseAttention forward;
  FoldaseTensor grad_out;
  FoldaseTensor grad_gate;
  FoldaseTensor incoming;  // written with a gate
  const float* grad_lse;
  float* base;
  float* delta;
  std::int64_t line;
};

BiasPlan plan_bias(const FoldaseAttention& own, const FoldaseTerm& grad, int tile_queries, int tile_keys);

// The launches for one dtype; each file backward_*.cu makes one of them. They return an empty text, or what went wrong.
template <class T>
struct Backward {
  static std::int64_t partial_bytes(const FoldaseAttentionBackward& arguments);
  static std::string launch(const FoldaseAttentionBackward& arguments, void* stream);
};

// Names all memory that the kernels of the backward pass may touch.
void declare_backward(const FoldaseAttentionBackward& arguments, const Workspace& workspace);

}  // namespace foldase
