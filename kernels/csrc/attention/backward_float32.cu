// The backward pass in float32.
#include "backward_kernels.cuh"

namespace foldase {
template struct Backward<float>;
}  // namespace foldase
