// bfloat16 and float16 as stored, and their conversions: instructions on the device, plain arithmetic elsewhere.
#pragma once

#include <cstdint>
#include <cstring>

namespace foldase {

struct BFloat16 {
  std::uint16_t bits;
};

struct Float16 {
  std::uint16_t bits;
};

// Two neighbouring values that are loaded or stored at once.
template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T low, high;
};

// Sixteen bytes.
struct alignas(16) Chunk {
  std::uint32_t words[4];
};

// Four float32.
struct alignas(16) Quad {
  float values[4];
};

FOLDASE_BOTH std::uint32_t float_bits(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

FOLDASE_BOTH float float_of_bits(std::uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

FOLDASE_BOTH float to_float(float value) { return value; }

FOLDASE_BOTH float to_float(BFloat16 value) { return float_of_bits(static_cast<std::uint32_t>(value.bits) << 16); }

FOLDASE_BOTH float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const std::uint32_t sign = (value.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (value.bits >> 10) & 31u;
  const std::uint32_t mantissa = value.bits & 1023u;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  return float_of_bits(sign | (wide << 23) | (mantissa << 13));
#endif
}

// Both values rounded to nearest, ties to even; `low` in the lower half.
template <class T>
FOLDASE_BOTH std::uint32_t pack(float low, float high);

#if !defined(__CUDA_ARCH__)
inline std::uint32_t bfloat16_bits(float value) {
  const std::uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

inline std::uint32_t float16_bits(float value) {
  const std::uint32_t bits = float_bits(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x47800000u) return sign | 0x7c00u;
  // Below the smallest normal number: one half has the step of the subnormal ones, so adding it rounds.
  if (magnitude < 0x38800000u) return sign | (float_bits(float_of_bits(magnitude) + 0.5f) - float_bits(0.5f));
  return sign | ((magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13);
}
#endif

template <>
FOLDASE_BOTH std::uint32_t pack<BFloat16>(float low, float high) {
#if defined(__CUDA_ARCH__)
  std::uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#else
  return bfloat16_bits(low) | (bfloat16_bits(high) << 16);
#endif
}

template <>
FOLDASE_BOTH std::uint32_t pack<Float16>(float low, float high) {
#if defined(__CUDA_ARCH__)
  std::uint32_t result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#else
  return float16_bits(low) | (float16_bits(high) << 16);
#endif
}

template <class T>
FOLDASE_BOTH T from_float(float value) {
  return T{static_cast<std::uint16_t>(pack<T>(value, 0.0f))};
}

template <>
FOLDASE_BOTH float from_float<float>(float value) {
  return value;
}

}  // namespace foldase
