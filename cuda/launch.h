// How a launcher starts its kernel: grid arithmetic, the choice of element type and vector width,
// the launch itself. For .cu files. Thread-safe; an error ends the process (cuda_check.h).
//
// Every kernel is launched so that it may begin while the work before it in the stream still runs
// (programmatic dependent launch). It must therefore call WaitForInputs() (device.cuh) in every
// thread that touches what the step's other kernels write or read: before that, older things only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "core/base/check.h"
#include "core/tensor/tensor.h"
#include "cuda/cuda_check.h"
#include "cuda/device.cuh"

namespace penstock {

template <>
constexpr DataType DataTypeOf<__half>() {
  return DataType::kF16;
}
template <>
constexpr DataType DataTypeOf<__nv_bfloat16>() {
  return DataType::kBF16;
}

namespace cuda {

inline constexpr int kThreads = 256;  // a block, where a kernel has no reason for another number

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  unsigned cluster = 1;  // blocks behind each other that run beside each other
};

// How many parts of `size` hold `count`; a grid's dimension.
inline unsigned Blocks(int64_t count, int64_t size = 1) {
  const int64_t blocks = (count + size - 1) / size;
  PENSTOCK_CHECK_GT(blocks, 0);
  PENSTOCK_CHECK_LE(blocks, INT32_MAX);
  return static_cast<unsigned>(blocks);
}

// Rows times columns: blocks along a row in x, rows in y, where a kernel goes on by gridDim.y.
inline dim3 RowGrid(int64_t rows, int64_t columns) {
  return dim3(Blocks(columns, kThreads), Blocks(std::min<int64_t>(rows, 65535)));
}

template <typename... Parameters, typename... Arguments>
void Launch(cudaStream_t stream, const LaunchShape& shape, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {shape.cluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = shape.cluster > 1 ? 2 : 1;
  const cudaError_t error = cudaLaunchKernelEx(
      &config, kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  if (error != cudaSuccess) [[unlikely]] {
    const char* name = "?";
    static_cast<void>(cudaFuncGetName(&name, reinterpret_cast<const void*>(kernel)));
    CheckCuda(error, ("launch of " + std::string(name)).c_str(), __FILE__, __LINE__);
  }
}

// Lets a kernel have more than 48 KiB of dynamic shared memory a block. Cheap enough to repeat.
template <typename... Parameters>
void AllowShared(void (*kernel)(Parameters...), size_t bytes) {
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)));
}

// Multiprocessors of the current device.
inline int NumMultiprocessors() {
  int device = 0;
  int count = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// The elements of a tensor on the device. CHECKs element type and device.
template <typename T>
T* Elements(const Tensor& tensor) {
  PENSTOCK_CHECK_EQ(Name(tensor.type()), Name(DataTypeOf<std::remove_const_t<T>>()));
  PENSTOCK_CHECK(tensor.device() == Device::kCuda);
  return static_cast<T*>(const_cast<void*>(tensor.raw()));
}

// Calls body(T()) with the C++ type of an activation's element type.
template <typename Body>
void ForElementType(DataType type, const Body& body) {
  switch (type) {
    case DataType::kF32:
      return body(float());
    case DataType::kF16:
      return body(__half());
    case DataType::kBF16:
      return body(__nv_bfloat16());
    default:
      CheckFailed(__FILE__, __LINE__,
                  std::string(Name(type)) + " is no type to compute in: use f32, f16 or bf16");
  }
}

// Calls body(S()) with the type of the residual stream beside activations of type T: f32, or T too.
template <typename T, typename Body>
void ForResidualType(DataType type, const Body& body) {
  if (type == DataType::kF32) return body(float());
  PENSTOCK_CHECK_EQ(Name(type), Name(DataTypeOf<T>()));
  body(T());
}

// Whether elements can be loaded 16 bytes at a time: every row begins and ends at a multiple of 16.
inline bool IsWide(const Tensor& tensor, int64_t row_elements) {
  const int64_t bytes = Info(tensor.type()).block_bytes;
  const bool strides = tensor.rank() < 2 || tensor.stride(0) * bytes % 16 == 0;
  return reinterpret_cast<uintptr_t>(tensor.raw()) % 16 == 0 && strides &&
         row_elements * bytes % 16 == 0;
}

// Calls body(integral_constant) with the elements that a thread loads at once: 16 bytes' worth,
// or 1.
template <typename T, typename Body>
void ForWidth(bool wide, const Body& body) {
  if (wide) return body(std::integral_constant<int, kWide<T>>());
  body(std::integral_constant<int, 1>());
}

}  // namespace cuda
}  // namespace penstock
