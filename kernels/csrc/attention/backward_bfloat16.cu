// The backward pass in bfloat16.
#include "backward_kernels.cuh"

namespace foldase {
template struct Backward<BFloat16>;
}  // namespace foldase
