// Weights on their way to the GPU: whatever the source's type and however many parts of the ring a
// weight takes, what arrives is what the plain conversion gives.
#include "cuda/weight_upload.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "core/io/dummy_values.h"
#include "core/tensor/dequantize.h"
#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "tests/support/gpu.h"

namespace penstock {
namespace {

// A weight without memory of its own.
WeightStream Made(DataType type, const Shape& shape, uint64_t key) {
  WeightStream stream;
  stream.type = type;
  stream.shape = shape;
  stream.read = [type, key](int64_t first, int64_t count, void* out) {
    if (type == DataType::kBF16) {
      DummyValues(key, 1.0f, first, count, static_cast<uint16_t*>(out));
    } else {
      DummyValues(key, 1.0f, first, count, static_cast<float*>(out));
    }
  };
  return stream;
}

// A quantized one in memory, as a file maps it.
WeightStream Quantized(const Shape& shape, HostAllocator& host) {
  Tensor tensor = *Tensor::Make(DataType::kQ8_0, shape, host);
  auto* blocks = static_cast<BlockQ8_0*>(tensor.raw());
  for (int64_t i = 0; i < shape.num_elements() / 32; ++i) {
    blocks[i].scale = FloatToHalf(0.001f * static_cast<float>(i % 991));
    for (int j = 0; j < 32; ++j) blocks[i].quants[j] = static_cast<int8_t>(i * 7 + j * 31);
  }
  return WeightStream::Of(tensor);
}

std::vector<uint8_t> Expected(const WeightStream& stream, DataType type) {
  HostAllocator host;
  const absl::StatusOr<Tensor> whole = stream.InMemory(host, nullptr);
  PENSTOCK_CHECK(whole.ok());
  const int64_t count = stream.shape.num_elements();
  std::vector<float> values(static_cast<size_t>(count));
  Dequantize(stream.type, whole->raw(), count, values.data());
  std::vector<uint8_t> bytes(static_cast<size_t>(count * Info(type).block_bytes));
  for (size_t i = 0; i < values.size(); ++i) {
    if (type == DataType::kF32) {
      std::memcpy(&bytes[4 * i], &values[i], 4);
    } else {
      const uint16_t half =
          type == DataType::kF16 ? FloatToHalf(values[i]) : FloatToBFloat16(values[i]);
      std::memcpy(&bytes[2 * i], &half, 2);
    }
  }
  return bytes;
}

void ExpectArrives(DataType type, int threads, PoolAllocator& memory) {
  HostAllocator host;
  // One element; odd; several parts, whose last is odd, more than there are buffers.
  std::vector<WeightStream> streams = {Quantized({2003, 4128}, host)};
  for (const Shape& shape : {Shape({1}), Shape({3, 1237}), Shape({5003, 7001})}) {
    for (const DataType from : {DataType::kF32, DataType::kBF16}) {
      streams.push_back(Made(from, shape, streams.size()));
    }
  }
  std::vector<Tensor> uploaded;
  {
    cuda::WeightUpload upload(type, memory, threads);
    for (const WeightStream& stream : streams) {
      const absl::StatusOr<Tensor> tensor = upload.Upload(stream);
      ASSERT_TRUE(tensor.ok());
      uploaded.push_back(*tensor);
    }
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    const std::vector<uint8_t> expected = Expected(streams[i], type);
    ASSERT_EQ(uploaded[i].bytes(), static_cast<int64_t>(expected.size()));
    std::vector<uint8_t> found(expected.size());
    CUDA_CHECK(cudaMemcpy(found.data(), std::as_const(uploaded[i]).raw(), found.size(),
                          cudaMemcpyDeviceToHost));
    EXPECT_TRUE(found == expected) << i << " as " << Name(type) << ", threads " << threads;
  }
}

TEST(WeightUpload, WhatArrivesIsWhatWasRead) {
  if (!testing::GpuCall::Available()) GTEST_SKIP() << "no GPU";
  const absl::StatusOr<std::unique_ptr<PoolAllocator>> memory = MakeCudaAllocator(0);
  ASSERT_TRUE(memory.ok());
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    // One thread, which gets all parts at once; all.
    for (const int threads : {1, 0}) {
      ASSERT_NO_FATAL_FAILURE(ExpectArrives(type, threads, **memory));
    }
  }
}

}  // namespace
}  // namespace penstock
