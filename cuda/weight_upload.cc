#include "cuda/weight_upload.h"

#include <algorithm>
#include <cstring>

#include "core/base/check.h"
#include "core/tensor/dequantize.h"
#include "cuda/cuda_check.h"

namespace penstock::cuda {
namespace {

constexpr int64_t kPartElements = int64_t{4} << 20;
constexpr int64_t kPieceElements = 8192;  // that a thread turns at once: whole blocks of any type

}  // namespace

WeightUpload::WeightUpload(DataType type, BaseAllocator& device_memory, int threads)
    : type_(type), device_memory_(device_memory), pool_(threads) {
  for (Part& part : parts_) {
    void* pinned = nullptr;
    CUDA_CHECK(cudaMallocHost(&pinned, kPartElements * sizeof(float)));
    part.pinned = static_cast<uint8_t*>(pinned);
  }
}

WeightUpload::~WeightUpload() {
  stream_.Synchronize();
  for (Part& part : parts_) CUDA_CHECK(cudaFreeHost(part.pinned));
}

absl::StatusOr<Tensor> WeightUpload::Upload(const Tensor& host) {
  PENSTOCK_CHECK(host.is_contiguous());
  PENSTOCK_ASSIGN_OR_RETURN(Tensor device, Tensor::Make(type_, host.shape(), device_memory_));
  const int64_t element = Info(type_).block_bytes;
  const int64_t elements = host.num_elements();
  auto* place = static_cast<uint8_t*>(device.raw());
  size_t next = 0;
  for (int64_t first = 0; first < elements; first += kPartElements) {
    const int64_t count = std::min(kPartElements, elements - first);
    Part& part = parts_[next];
    next = 1 - next;
    part.copied.Synchronize();
    Turn(host, first, count, part.pinned);
    CUDA_CHECK(cudaMemcpyAsync(place + first * element, part.pinned,
                               static_cast<size_t>(count * element), cudaMemcpyHostToDevice,
                               stream_.get()));
    stream_.Record(part.copied);
  }
  stream_.Synchronize();
  return device;
}

void WeightUpload::Turn(const Tensor& host, int64_t first, int64_t count, uint8_t* out) {
  const DataTypeInfo from = Info(host.type());
  const int64_t element = Info(type_).block_bytes;
  const int64_t pieces = (count + kPieceElements - 1) / kPieceElements;
  pool_.ParallelFor(pieces, 1, [&](int64_t begin, int64_t end) {
    std::array<float, kPieceElements> values;
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t at = piece * kPieceElements;
      const int64_t size = std::min(kPieceElements, count - at);
      const auto* source =
          static_cast<const uint8_t*>(host.raw()) + (first + at) / from.block * from.block_bytes;
      uint8_t* const to = out + at * element;
      if (host.type() == type_) {
        std::memcpy(to, source, static_cast<size_t>(size * element));
        continue;
      }
      if (type_ == DataType::kF32) {
        Dequantize(host.type(), source, size, reinterpret_cast<float*>(to));
        continue;
      }
      Dequantize(host.type(), source, size, values.data());
      auto* const halves = reinterpret_cast<uint16_t*>(to);
      for (int64_t i = 0; i < size; ++i) {
        const float value = values[static_cast<size_t>(i)];
        halves[i] = type_ == DataType::kF16 ? FloatToHalf(value) : FloatToBFloat16(value);
      }
    }
  });
}

}  // namespace penstock::cuda
