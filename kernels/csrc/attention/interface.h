// What every entry point of the attention library does before and after its launch.
#pragma once

#include <cstring>
#include <string>

#include "../common/device.cuh"
#include "arguments.h"

namespace foldase {

// Copies a text to the caller's buffer, cut to its capacity, and returns `status`.
inline int report(const std::string& text, int status, char* message, std::int64_t capacity) {
  if (message != nullptr && capacity > 0) {
    const auto room = static_cast<std::size_t>(capacity - 1);
    const std::size_t bytes = text.size() < room ? text.size() : room;
    std::memcpy(message, text.data(), bytes);
    message[bytes] = 0;
  }
  return status;
}

// What is wrong with the arguments, or an empty text. Shapes were checked in Python; this guards the interface.
inline std::string check_arguments(const FoldaseAttention* arguments) {
  if (arguments == nullptr) return "no arguments were given";
  const FoldaseAttention& own = *arguments;
  const auto size = static_cast<std::int64_t>(sizeof(FoldaseAttention));
  if (own.size != size) {
    return "the arguments have " + std::to_string(own.size) + " bytes, this library expects " + std::to_string(size) +
           "; build it again";
  }
  constexpr std::int64_t kMost = 2147483647 - 256;
  if (own.batches < 1 || own.rows < 1 || own.heads < 1) return "batches, rows and heads must be positive";
  if (own.queries < 1 || own.queries > kMost) return "queries is " + std::to_string(own.queries);
  if (own.keys < 1 || own.keys > kMost) return "keys is " + std::to_string(own.keys);
  if (own.width < 1 || own.width > 128) return "width is " + std::to_string(own.width) + "; expected 1 to 128";
  if (own.dtype < FOLDASE_FLOAT32 || own.dtype > FOLDASE_FLOAT16) return "dtype is " + std::to_string(own.dtype);
  if (own.bias_count < 0 || own.bias_count > FOLDASE_MAX_BIASES) {
    return "bias_count is " + std::to_string(own.bias_count) + "; expected at most " + std::to_string(FOLDASE_MAX_BIASES);
  }
  if (own.q.data == nullptr || own.k.data == nullptr || own.v.data == nullptr || own.out.data == nullptr) {
    return "q, k, v and out must not be null";
  }
  for (int number = 0; number < own.bias_count; ++number) {
    const FoldaseTerm& bias = own.biases[number];
    if (bias.data == nullptr) return "bias " + std::to_string(number) + " is null";
    if (bias.dtype < FOLDASE_FLOAT32 || bias.dtype > FOLDASE_FLOAT16) {
      return "bias " + std::to_string(number) + " has dtype " + std::to_string(bias.dtype);
    }
  }
  return "";
}

inline std::int64_t dtype_bytes(std::int32_t dtype) { return dtype == FOLDASE_FLOAT32 ? 4 : 2; }

inline void declare_tensor(const FoldaseTensor& tensor, const FoldaseAttention& own, std::int64_t positions,
                           bool writable) {
  if (tensor.data == nullptr) return;
  const std::int64_t last = (own.batches - 1) * tensor.batch + (own.rows - 1) * tensor.row +
                            (positions - 1) * tensor.position + (own.heads - 1) * tensor.head +
                            (own.width - 1) * tensor.channel;
  declare_memory(tensor.data, (last + 1) * dtype_bytes(own.dtype), writable);
}

inline void declare_term(const FoldaseTerm& term, const FoldaseAttention& own, std::int64_t bytes) {
  if (term.data == nullptr) return;
  const std::int64_t last = (own.batches - 1) * term.batch + (own.rows - 1) * term.row + (own.heads - 1) * term.head +
                            (own.queries - 1) * term.query + (own.keys - 1) * term.key;
  declare_memory(term.data, (last + 1) * bytes, false);
}

// Names all memory that the kernels may touch; `results`: whether they may write what the forward pass writes.
inline void declare_arguments(const FoldaseAttention& own, bool results = true) {
  declare_tensor(own.q, own, own.queries, false);
  declare_tensor(own.k, own, own.keys, false);
  declare_tensor(own.v, own, own.keys, false);
  declare_tensor(own.gate, own, own.queries, false);
  declare_tensor(own.out, own, own.queries, results);
  for (int number = 0; number < own.bias_count; ++number) {
    declare_term(own.biases[number], own, dtype_bytes(own.biases[number].dtype));
  }
  declare_term(own.mask, own, 1);
  if (own.slopes != nullptr) declare_memory(own.slopes, own.heads * 4, false);
  if (own.lse != nullptr) declare_memory(own.lse, own.batches * own.rows * own.heads * own.queries * 4, results);
}

}  // namespace foldase
