// The backward pass in float16.
#include "backward_kernels.cuh"

namespace foldase {
template struct Backward<Float16>;
}  // namespace foldase
