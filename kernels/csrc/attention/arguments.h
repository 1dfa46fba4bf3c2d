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
  int32_t dtype;     // a FoldaseDtype; of no meaning for the mask, which has one byte an element
  int32_t reserved;  // 0
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
