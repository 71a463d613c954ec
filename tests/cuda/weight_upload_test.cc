// Weights on their way to the GPU: whatever the source's type and however many parts of the ring a
// weight takes, what arrives is what the host's conversion gives, bit for bit.
#include "cuda/weight_upload.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "core/io/dummy_values.h"
#include "core/tensor/dequantize.h"
#include "core/weights/base_weight.h"
#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "tests/support/gpu.h"
#include "tests/support/memory_source.h"

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

// What arrives, bit for bit.
void ExpectArrived(const std::vector<WeightStream>& streams, const std::vector<Tensor>& uploaded,
                   DataType type) {
  ASSERT_EQ(streams.size(), uploaded.size());
  for (size_t i = 0; i < streams.size(); ++i) {
    const std::vector<uint8_t> expected = Expected(streams[i], type);
    ASSERT_EQ(uploaded[i].bytes(), static_cast<int64_t>(expected.size()));
    std::vector<uint8_t> found(expected.size());
    CUDA_CHECK(cudaMemcpy(found.data(), std::as_const(uploaded[i]).raw(), found.size(),
                          cudaMemcpyDeviceToHost));
    EXPECT_TRUE(found == expected) << i << ", " << Name(streams[i].type) << " as " << Name(type);
  }
}

void ExpectArrives(const std::vector<WeightStream>& streams, DataType type,
                   const cuda::UploadRing& ring, PoolAllocator& memory) {
  const int64_t before = memory.stats().bytes_requested;
  std::vector<Tensor> uploaded;
  int64_t bytes = 0;
  {
    cuda::WeightUpload upload(type, memory, ring);
    for (const WeightStream& stream : streams) {
      const absl::StatusOr<Tensor> tensor = upload.Upload(stream);
      ASSERT_TRUE(tensor.ok());
      uploaded.push_back(*tensor);
      bytes += tensor->bytes();
    }
  }
  EXPECT_EQ(memory.stats().bytes_requested - before, bytes) << "more than the weights is held";
  ExpectArrived(streams, uploaded, type);
}

class WeightUpload : public ::testing::TestWithParam<DataType> {
 protected:
  void SetUp() override {
    if (!testing::GpuCall::Available()) GTEST_SKIP() << "no GPU";
    absl::StatusOr<std::unique_ptr<PoolAllocator>> memory = MakeCudaAllocator(0);
    ASSERT_TRUE(memory.ok());
    memory_ = *std::move(memory);
  }
  static std::vector<cuda::UploadRing> Rings() {
    // One thread, which gets all parts at once; all; rows are not whole in a buffer; more lanes
    // than parts.
    cuda::UploadRing alone;
    alone.threads = 1;
    return {alone, {}, {3, 2, 512, 2}, {5, 3, 2304, 1}, {2, 4, 65536, 4}};
  }

  std::unique_ptr<PoolAllocator> memory_;
};

TEST_P(WeightUpload, PlainTypesArriveAsTheyWereRead) {
  // One element; odd; several parts, whose last is odd, more than there are buffers.
  std::vector<WeightStream> streams;
  for (const Shape& shape : {Shape({1}), Shape({3, 1237}), Shape({503, 701})}) {
    for (const DataType from : {DataType::kF32, DataType::kBF16}) {
      streams.push_back(Made(from, shape, streams.size()));
    }
    streams.push_back(WeightStream::Of(testing::As(DataType::kF16, testing::Random(shape, 5))));
  }
  for (const cuda::UploadRing& ring : Rings()) {
    ASSERT_NO_FATAL_FAILURE(ExpectArrives(streams, GetParam(), ring, *memory_));
  }
}

TEST_P(WeightUpload, BlocksAreTurnedOnTheGpu) {
  std::vector<WeightStream> streams;
  for (const DataType from : {DataType::kQ4_0, DataType::kQ4_1, DataType::kQ5_0, DataType::kQ5_1,
                              DataType::kQ8_0, DataType::kQ4_K, DataType::kQ5_K, DataType::kQ6_K}) {
    const int64_t block = Info(from).block;
    for (const Shape& shape : {Shape({1, block}), Shape({37, 11 * block})}) {
      streams.push_back(WeightStream::Of(testing::RandomBlocks(from, shape, 7)));
    }
  }
  // Of a rest, in a large buffer.
  streams.push_back(WeightStream::Of(testing::RandomBlocks(DataType::kQ8_0, {203, 4128}, 8)));
  for (const cuda::UploadRing& ring : Rings()) {
    ASSERT_NO_FATAL_FAILURE(ExpectArrives(streams, GetParam(), ring, *memory_));
  }
}

// Query, key and value of a GGUF file: rows in another order, three tensors in one.
TEST_P(WeightUpload, PackedRowsArriveInTheirOrder) {
  testing::MemorySource source(WeightSource::RopeRows::kInterleaved);
  const std::vector<WeightPart> parts = {{"q", 64, 4}, {"k", 32, 2}, {"v", 32}};
  for (const WeightPart& part : parts) {
    source.Put(part.name, testing::RandomBlocks(DataType::kQ4_K, {part.rows, 768}, 9));
  }
  const ModelConfig config;
  const WeightLoader on_host{source, config, testing::Allocator()};
  const absl::StatusOr<PackedWeight> expected = PackRows(on_host, parts, 768);
  ASSERT_TRUE(expected.ok());
  for (const cuda::UploadRing& ring : Rings()) {
    std::optional<cuda::WeightUpload> upload(std::in_place, GetParam(), *memory_, ring);
    const WeightLoader loader{source, config, testing::Allocator(),
                              [&](const WeightStream& packed) { return upload->Upload(packed); }};
    const absl::StatusOr<PackedWeight> packed = PackRows(loader, parts, 768);
    ASSERT_TRUE(packed.ok());
    upload.reset();
    ASSERT_EQ(packed->tensors.size(), 1u);
    ExpectArrived({WeightStream::Of(expected->tensors[0])}, packed->tensors, GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(Types, WeightUpload,
                         ::testing::Values(DataType::kF32, DataType::kF16, DataType::kBF16),
                         [](const auto& info) { return std::string(Name(info.param)); });

}  // namespace
}  // namespace penstock
