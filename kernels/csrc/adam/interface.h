// The C interface of the AdamW step; mirrored by foldase_kernels/adam/cpp.py.
#pragma once

#include <cstdint>

namespace foldase {

enum Dtype : int32_t { kFloat32 = 0, kBFloat16 = 1 };
enum Level : int32_t { kBest = 0, kPlain = 1, kAvx2 = 2, kAvx512 = 3 };
enum Status : int { kDone = 0, kOtherInterface = 1, kUnknownDtype = 2, kNoSuchInstructions = 3 };

// Vectors of `count` elements. `average` and `out`, which is bfloat16, may be null; `out` may be `gradient`.
struct AdamStep {
  int64_t size;  // of this struct, as the caller knows it
  int64_t count;
  float* weights;
  float* exp_avg;
  float* exp_avg_sq;
  float* average;
  const void* gradient;
  uint16_t* out;
  int32_t gradient_dtype;
  int32_t threads;
  int32_t level;
  float scale;          // of the gradient
  float first_share;    // 1 - beta of the first moment
  float second_kept;    // beta of the second moment
  float second_share;   // 1 - that
  float root_factor;    // 1 / sqrt(correction of the second moment)
  float epsilon;
  float step_size;      // rate / correction of the first moment
  float decay;          // rate * weight decay
  float average_share;  // of the new weights
};

}  // namespace foldase
