// Weights on their way to the GPU: whatever the source's type and however many parts of the ring a
// weight takes, what arrives is what the host's conversion gives, bit for bit.
#include "cuda/weight_upload.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
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
    // As it is; one buffer alone; rows are not whole in a buffer; more readers than parts.
    return {{}, {1, 1}, {3, 5, 512}, {5, 15, 2304}, {9, 8, 65536}};
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

// Query, key and value of a GGUF file: rows in another order, three tensors in one, or values of
// another type apart. Rows of all lengths, which the small rings cut.
TEST_P(WeightUpload, PackedRowsArriveInTheirOrder) {
  const std::vector<WeightPart> parts = {{"q", 64, 4}, {"k", 32, 2}, {"v", 33}};
  std::vector<std::unique_ptr<testing::MemorySource>> sources;
  std::vector<int64_t> columns;  // of each source
  const auto put = [&](DataType type, DataType of_values, int64_t count) {
    sources.push_back(
        std::make_unique<testing::MemorySource>(WeightSource::RopeRows::kInterleaved));
    columns.push_back(count);
    for (const WeightPart& part : parts) {
      const DataType stored = part.rope_heads > 0 ? type : of_values;
      const Shape shape = {part.rows, count};
      sources.back()->Put(part.name, Info(stored).block > 1
                                         ? testing::RandomBlocks(stored, shape, 9)
                                         : testing::As(stored, testing::Random(shape, 9)));
    }
  };
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    for (const int64_t count : {5, 501, 768}) put(type, type, count);
    put(type, type == DataType::kF32 ? DataType::kF16 : DataType::kF32, 501);
  }
  for (const DataType type : {DataType::kQ4_0, DataType::kQ4_1, DataType::kQ5_0, DataType::kQ5_1,
                              DataType::kQ8_0, DataType::kQ4_K, DataType::kQ5_K, DataType::kQ6_K}) {
    for (const int64_t count : {1, 3, 7}) put(type, type, count * Info(type).block);
    put(type, DataType::kF16, 768);
  }
  const ModelConfig config;
  std::vector<WeightStream> expected;
  const auto pack = [&](const WeightLoader& loader, int64_t count, std::vector<Tensor>* tensors) {
    const absl::StatusOr<PackedWeight> packed = PackRows(loader, parts, count);
    ASSERT_TRUE(packed.ok());
    for (const Tensor& tensor : packed->tensors) tensors->push_back(tensor);
  };
  std::vector<Tensor> on_host;
  for (size_t i = 0; i < sources.size(); ++i) {
    pack({*sources[i], config, testing::Allocator()}, columns[i], &on_host);
  }
  ASSERT_EQ(on_host.size(), sources.size() + 3 + 8);  // those with values apart
  for (const Tensor& tensor : on_host) expected.push_back(WeightStream::Of(tensor));
  for (const cuda::UploadRing& ring : Rings()) {
    SCOPED_TRACE(::testing::Message() << "buffers of " << ring.buffer_bytes);
    std::vector<Tensor> uploaded;
    {
      cuda::WeightUpload upload(GetParam(), *memory_, ring);
      for (size_t i = 0; i < sources.size(); ++i) {
        pack({*sources[i], config, testing::Allocator(),
              [&](const WeightStream& packed) { return upload.Upload(packed); }},
             columns[i], &uploaded);
      }
    }
    ASSERT_NO_FATAL_FAILURE(ExpectArrived(expected, uploaded, GetParam()));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, WeightUpload,
                         ::testing::Values(DataType::kF32, DataType::kF16, DataType::kBF16),
                         [](const auto& info) { return std::string(Name(info.param)); });

}  // namespace
}  // namespace penstock
