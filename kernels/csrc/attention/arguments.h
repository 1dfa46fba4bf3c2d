// The arguments of the attention kernels, as they cross the C interface. Mirrored by ctypes in
// foldase_kernels/attention/arguments.py; `size` tells when the two differ. Strides count elements, may be 0 for
// dimensions that broadcast, and are never negative.
#pragma once

#include <stdint.h>

enum FoldaseDtype : int32_t {
  FOLDASE_FLOAT32 = 0,
  FOLDASE_BFLOAT16 = 1,
  FOLDASE_FLOAT16 = 2,
};

enum { FOLDASE_MAX_BIASES = 4 };

// A tensor [batch, row, position, head, channel] of the dtype of q.
struct FoldaseTensor {
  void* data;        // address of the first element; null where the tensor is absent
  int64_t batch;     // strides
  int64_t row;
  int64_t position;
  int64_t head;
  int64_t channel;
};

// A bias or mask over [batch, row, head, query, key].
struct FoldaseTerm {
  void* data;     // address of the first element; null where the term is absent
  int64_t batch;  // strides
  int64_t row;
  int64_t head;
  int64_t query;
  int64_t key;
  int32_t dtype;  // a FoldaseDtype; of no meaning for the mask, which has one byte an element
  int32_t added;  // 1 for a gradient that is added to what the memory holds; 0 for everything else
};

struct FoldaseAttention {
  int64_t size;         // bytes of this struct
  int64_t batches;      // leading dimensions, flattened; 1 without any
  int64_t rows;         // rows of the pair or MSA representation
  int64_t heads;        // heads
  int64_t queries;      // positions of q, gate and out
  int64_t keys;         // positions of k and v
  int64_t width;        // channels of a head, 1 to 128
  int64_t block_limit;  // most thread blocks to start; 0 for as many as there is work
  FoldaseTensor q;
  FoldaseTensor k;
  FoldaseTensor v;
  FoldaseTensor gate;  // before the sigmoid; may be absent
  FoldaseTensor out;   // written
  FoldaseTerm biases[FOLDASE_MAX_BIASES];  // the first `bias_count` are read
  FoldaseTerm mask;                        // bytes, not 0 where a key may be attended to; may be absent
  const float* slopes;  // [heads] of ALiBi, contiguous; may be null
  float* lse;           // [batches, rows, heads, queries], contiguous, written; may be null
  int32_t dtype;        // FoldaseDtype of q, k, v, gate and out
  int32_t bias_count;   // 0 to FOLDASE_MAX_BIASES
  int32_t causal;       // 1 when a query sees no later key; the last query stands at the last key
  float scale;          // factor on q k^T
};

// One call of the backward pass. A gradient whose address is null is not computed.
struct FoldaseAttentionBackward {
  int64_t size;              // bytes of this struct
  FoldaseAttention forward;  // as the forward pass was called, but `out` and `lse` are read; `lse` must be there
  FoldaseTensor grad_out;    // dtype and shape of out; zeros with strides 0 where there is no gradient
  FoldaseTensor grad_q;      // written, dtype of q, as the three that follow
  FoldaseTensor grad_k;
  FoldaseTensor grad_v;
  FoldaseTensor grad_gate;
  FoldaseTerm grad_biases[FOLDASE_MAX_BIASES];  // each with its own dtype; strides are 0 where the bias broadcasts
  const float* grad_lse;                        // [batches, rows, heads, queries], contiguous; may be null
  void* workspace;                              // scratch at a multiple of 16; what it holds is of no meaning
  int64_t workspace_bytes;                      // at least foldase_attention_backward_workspace(this)
};

#define FOLDASE_EXPORT extern "C" __attribute__((visibility("default")))

// Every entry point that returns a status gives 0, or 1 when the arguments do not fit, or 2 when a launch failed; then
// `message`, of `capacity` bytes, says why. All work goes to `stream`, a cudaStream_t; nothing is allocated or waited
// for, so a call can be captured in a graph.
FOLDASE_EXPORT int foldase_attention_forward(const FoldaseAttention* arguments, void* stream, char* message,
                                             int64_t capacity);

// The gradients of a call of the forward pass. Sums run in an order that only the sizes, the strides of the gradients
// of biases and `block_limit` decide, so equal calls give equal bits. Queries without a key add nothing anywhere and
// get gradients of 0.
FOLDASE_EXPORT int foldase_attention_backward(const FoldaseAttentionBackward* arguments, void* stream,
                                              char* message, int64_t capacity);

// The bytes of workspace that a call of the backward pass needs, or -1 when its arguments do not fit; `workspace` and
// `workspace_bytes` are not looked at, of the gradients only which are wanted and the strides of those of biases.
// With L = batches rows heads and q rounded up to 64: 8 L q for two sums a query, with a gate the bytes of q once more
// (width rounded up to 8), and for the gradients of biases at most 8 MiB, whatever the sizes.
FOLDASE_EXPORT int64_t foldase_attention_backward_workspace(const FoldaseAttentionBackward* arguments);
