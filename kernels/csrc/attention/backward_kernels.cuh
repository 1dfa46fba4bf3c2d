// The backward pass for one dtype; each backward_*.cu compiles it for its own, so that they are compiled side by side.
#pragma once

#include "bias_gradient.cuh"
#include "prologue.cuh"
#include "sweep.cuh"

namespace foldase {

template <class T, int kWidth>
std::string launch_backward(const FoldaseAttentionBackward& arguments, void* stream) {
  const Workspace workspace(arguments, bias_partial_bytes<T, kWidth>(arguments));
  std::string problem = launch_prologue<T>(arguments, workspace, stream);
  if (problem.empty()) problem = launch_sweeps<T, kWidth>(arguments, workspace, stream);
  if (problem.empty()) problem = launch_biases<T, kWidth>(arguments, workspace, stream);
  return problem;
}

template <class T>
std::string Backward<T>::launch(const FoldaseAttentionBackward& arguments, void* stream) {
  if (arguments.forward.width <= 32) return launch_backward<T, 32>(arguments, stream);
  if (arguments.forward.width <= 64) return launch_backward<T, 64>(arguments, stream);
  return launch_backward<T, 128>(arguments, stream);
}

template <class T>
std::int64_t Backward<T>::partial_bytes(const FoldaseAttentionBackward& arguments) {
  if (arguments.forward.width <= 32) return bias_partial_bytes<T, 32>(arguments);
  if (arguments.forward.width <= 64) return bias_partial_bytes<T, 64>(arguments);
  return bias_partial_bytes<T, 128>(arguments);
}

}  // namespace foldase
