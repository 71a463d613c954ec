#include "cuda/weight_upload.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/tensor/dequantize.h"
#include "cuda/cuda_check.h"

namespace penstock::cuda {
namespace {

constexpr int64_t kPartBytes = int64_t{16} << 20;
// That a thread turns at once, whole blocks of any type, and that it claims at once.
constexpr int64_t kPieceElements = 8192;
constexpr int64_t kPiecesClaimed = 8;

}  // namespace

WeightUpload::WeightUpload(DataType type, BaseAllocator& device_memory, int threads)
    : type_(type), device_memory_(device_memory), pool_(threads) {
  for (Part& part : ring_) {
    void* pinned = nullptr;
    CUDA_CHECK(cudaMallocHost(&pinned, kPartBytes));
    part.pinned = static_cast<uint8_t*>(pinned);
  }
}

WeightUpload::~WeightUpload() {
  stream_.Synchronize();
  for (Part& part : ring_) CUDA_CHECK(cudaFreeHost(part.pinned));
}

absl::StatusOr<Tensor> WeightUpload::Upload(const WeightStream& host) {
  PENSTOCK_ASSIGN_OR_RETURN(Tensor device, Tensor::Make(type_, host.shape, device_memory_));
  const int64_t element = Info(type_).block_bytes;
  const int64_t part_elements = kPartBytes / element;
  const int64_t elements = host.shape.num_elements();
  auto* place = static_cast<uint8_t*>(device.raw());
  for (int64_t first = 0; first < elements; first += part_elements) {
    const int64_t count = std::min(part_elements, elements - first);
    Part& part = ring_[next_];
    next_ = (next_ + 1) % ring_.size();
    part.copied.Synchronize();
    Turn(host, first, count, part.pinned);
    CUDA_CHECK(cudaMemcpyAsync(place + first * element, part.pinned,
                               static_cast<size_t>(count * element), cudaMemcpyHostToDevice,
                               stream_.get()));
    stream_.Record(part.copied);
  }
  return device;
}

void WeightUpload::Turn(const WeightStream& host, int64_t first, int64_t count, uint8_t* out) {
  const DataTypeInfo from = Info(host.type);
  const int64_t element = Info(type_).block_bytes;
  const int64_t pieces = (count + kPieceElements - 1) / kPieceElements;
  pool_.ParallelFor(pieces, kPiecesClaimed, [&](int64_t begin, int64_t end) {
    alignas(64) std::array<uint8_t, kPieceElements * sizeof(float)> stored;
    std::array<float, kPieceElements> values;
    PENSTOCK_CHECK_LE(kPieceElements / from.block * from.block_bytes,
                      static_cast<int64_t>(stored.size()));
    if (host.type == type_) {
      const int64_t at = begin * kPieceElements;
      host.read(first + at, std::min(end * kPieceElements, count) - at, out + at * element);
      return;
    }
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t at = piece * kPieceElements;
      const int64_t size = std::min(kPieceElements, count - at);
      uint8_t* const to = out + at * element;
      host.read(first + at, size, stored.data());
      if (type_ == DataType::kF32) {
        Dequantize(host.type, stored.data(), size, reinterpret_cast<float*>(to));
        continue;
      }
      Dequantize(host.type, stored.data(), size, values.data());
      auto* const halves = reinterpret_cast<uint16_t*>(to);
      for (int64_t i = 0; i < size; ++i) {
        const float value = values[static_cast<size_t>(i)];
        halves[i] = type_ == DataType::kF16 ? FloatToHalf(value) : FloatToBFloat16(value);
      }
    }
  });
}

}  // namespace penstock::cuda
