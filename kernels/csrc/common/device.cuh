// Everything a kernel does that is not plain C++, under names that exist twice: here as instructions for nvcc, and in
// emulation/device.h for any C++ compiler, which then runs the kernel thread by thread. Kernels use only these names
// to touch shared and global memory, to exchange values and to wait. Needs sm_80 or newer.
#pragma once

#if !defined(__CUDACC__)

#include "../emulation/device.h"

#else

#include <cstdint>
#include <string>

#define FOLDASE_DEVICE __device__ __forceinline__
#define FOLDASE_KERNEL __global__
#define FOLDASE_BOTH __host__ __device__ __forceinline__
#define FOLDASE_UNROLL _Pragma("unroll")
#define FOLDASE_NO_UNROLL _Pragma("unroll 1")
#define FOLDASE_PARAMETER const __grid_constant__
#define FOLDASE_THREADS(count, blocks) __launch_bounds__(count, blocks)

#include "numbers.cuh"

namespace foldase {

FOLDASE_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
FOLDASE_DEVICE std::int64_t block_index() { return blockIdx.x; }
FOLDASE_DEVICE std::int64_t block_count() { return gridDim.x; }

FOLDASE_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char foldase_shared[];
  return foldase_shared;
}

template <class T>
FOLDASE_DEVICE T shared_load(const T* from) {
  return *from;
}

template <class T>
FOLDASE_DEVICE void shared_store(T* to, T value) {
  *to = value;
}

template <class T>
FOLDASE_DEVICE T global_load(const T* from) {
  return *from;
}

template <class T>
FOLDASE_DEVICE void global_store(T* to, T value) {
  *to = value;
}

FOLDASE_DEVICE std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// Four 8x8 matrices of 16-bit values; lanes 8i to 8i + 7 give the addresses of the rows of matrix i.
FOLDASE_DEVICE void load_matrices(std::uint32_t (&result)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(shared_address(row))
               : "memory");
}

FOLDASE_DEVICE void load_matrices_transposed(std::uint32_t (&result)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(shared_address(row))
               : "memory");
}

// c += a b, with a 16x16, b 16x8, c 16x8 spread over the warp.
template <class T>
FOLDASE_DEVICE void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);

template <>
FOLDASE_DEVICE void multiply_add<BFloat16>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
FOLDASE_DEVICE void multiply_add<Float16>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Starts copying 16 bytes to shared memory, or 16 zeros when not `inside`; `from` must be valid either way.
FOLDASE_DEVICE void copy_async(void* to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(inside ? 16 : 0)
               : "memory");
}

FOLDASE_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all but the latest `kLeft` committed groups of this thread's copies.
template <int kLeft>
FOLDASE_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

FOLDASE_DEVICE float shuffle(float value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
FOLDASE_DEVICE float shuffle_xor(float value, int bits) { return __shfl_xor_sync(0xffffffffu, value, bits); }
// Whether the value is true in any lane of the warp.
FOLDASE_DEVICE bool any_lane(bool value) { return __any_sync(0xffffffffu, value) != 0; }
FOLDASE_DEVICE void warp_barrier() { __syncwarp(); }
FOLDASE_DEVICE void block_barrier() { __syncthreads(); }

FOLDASE_DEVICE float exp2_fast(float value) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

FOLDASE_DEVICE float log2_fast(float value) { return __log2f(value); }
FOLDASE_DEVICE float divide_fast(float above, float below) { return __fdividef(above, below); }

// a b + c, rounded once.
FOLDASE_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// Only the emulation keeps account of what a kernel may touch.
inline void declare_memory(const void* data, std::int64_t bytes, bool writable) {
  static_cast<void>(data);
  static_cast<void>(bytes);
  static_cast<void>(writable);
}

// Returns an empty text, or what went wrong. Neither allocates nor waits.
template <class Arguments>
std::string launch(void (*kernel)(const Arguments), std::int64_t blocks, int threads, int shared_bytes, void* stream,
                   const Arguments& arguments) {
  cudaError_t status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                            cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (status == cudaSuccess) {
    kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), static_cast<std::size_t>(shared_bytes),
             static_cast<cudaStream_t>(stream)>>>(arguments);
    status = cudaGetLastError();
  }
  return status == cudaSuccess ? std::string() : std::string(cudaGetErrorString(status));
}

}  // namespace foldase

#endif
