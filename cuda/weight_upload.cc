#include "cuda/weight_upload.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"
#include "core/base/spin_wait.h"
#include "core/base/thread_pool.h"
#include "cuda/cuda_check.h"
#include "cuda/kernels/launchers.h"

namespace penstock::cuda {
namespace {

// So many read faster than a GPU copies; more take the memory from the copies.
constexpr int kMostReaders = 10;
constexpr size_t kAhead = 2;         // weights that wait to be read
constexpr int64_t kStagedParts = 4;  // that are turned at once
// Elements: parts of a multiple of it begin at a multiple of 64 bytes, whatever the type.
constexpr int64_t kStep = 16384;

}  // namespace

WeightUpload::WeightUpload(DataType type, BaseAllocator& device_memory, const UploadRing& ring)
    : type_(type),
      ring_(ring),
      device_memory_(device_memory),
      buffers_(static_cast<size_t>(ring.buffers)) {
  PENSTOCK_CHECK_GT(ring.buffers, 0);
  PENSTOCK_CHECK_EQ(ring.buffer_bytes % 256, 0);
  CUDA_CHECK(cudaGetDevice(&device_));
  const int threads = ring.threads > 0 ? ring.threads : std::min(UsableCores(), kMostReaders);
  for (int i = 0; i < threads; ++i) readers_.emplace_back([this] { ReadParts(); });
  sender_ = std::thread([this] { SendParts(); });
}

WeightUpload::~WeightUpload() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_ended_ = true;
  }
  changed_.notify_all();
  for (std::thread& reader : readers_) reader.join();
  all_read_.store(true);
  read_.fetch_add(1);  // has the sender look
  read_.notify_one();
  sender_.join();
  copies_.Synchronize();
  turns_.Synchronize();
  CUDA_CHECK(cudaFreeHost(pinned_));
}

absl::StatusOr<Tensor> WeightUpload::Upload(const WeightStream& host) {
  const auto weight = std::make_shared<Weight>();
  weight->host = host;
  weight->is_turned = host.type != type_ || host.order.rows > 0;
  PENSTOCK_ASSIGN_OR_RETURN(weight->device, Tensor::Make(type_, host.shape, device_memory_));
  for (Staging& staging : staging_) {
    if (!weight->is_turned || !staging.bytes.empty()) continue;
    PENSTOCK_ASSIGN_OR_RETURN(
        staging.bytes,
        Tensor::Make(DataType::kU8, {kStagedParts * ring_.buffer_bytes}, device_memory_));
  }
  const DataTypeInfo stored = Info(host.type);
  weight->part = ring_.buffer_bytes / stored.block_bytes * stored.block;
  if (weight->part > kStep) weight->part -= weight->part % kStep;
  PENSTOCK_CHECK_GT(weight->part, 0);
  {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return weights_.size() < kAhead; });
    weights_.push_back(weight);
  }
  changed_.notify_all();
  return weight->device;
}

void WeightUpload::ReadParts() {
  while (true) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return is_ended_ || !weights_.empty(); });
    if (weights_.empty()) return;
    const std::shared_ptr<Weight> weight = weights_.front();
    const int64_t elements = weight->host.shape.num_elements();
    const int64_t first = weight->next;
    const int64_t count = std::min(weight->part, elements - first);
    const int64_t part = begun_++;
    weight->next += count;
    const bool is_last = weight->next == elements;
    if (is_last) weights_.pop_front();
    lock.unlock();
    if (is_last) changed_.notify_all();

    SpinThenWait(room_, [&](int64_t room) { return room > part; });
    Buffer& buffer = BufferOf(part);
    weight->host.read(first, count, buffer.pinned);
    buffer.weight = weight;
    buffer.first = first;
    buffer.count = count;
    buffer.parts.store(part + 1);
    read_.fetch_add(1);
    read_.notify_one();
  }
}

void WeightUpload::MakeRing() {
  const auto bytes = static_cast<size_t>(ring_.buffer_bytes);
  void* pinned = nullptr;
  CUDA_CHECK(cudaMallocHost(&pinned, buffers_.size() * bytes));
  pinned_ = static_cast<uint8_t*>(pinned);
  for (size_t i = 0; i < buffers_.size(); ++i) buffers_[i].pinned = pinned_ + i * bytes;
}

void WeightUpload::SendParts() {
  CUDA_CHECK(cudaSetDevice(device_));
  MakeRing();
  int64_t sent = 0;
  int64_t copied = -1;
  for (int64_t now = 0;;) {
    if (now > copied) {
      copied = now;
      room_.store(copied + static_cast<int64_t>(buffers_.size()));
      room_.notify_all();
    }
    // In this order: the end's word must come behind the count that is waited on below.
    const int64_t read = read_.load();
    const bool is_end = all_read_.load();
    if (Buffer& buffer = BufferOf(sent); buffer.parts.load() == sent + 1) {
      Send(buffer);
      ++sent;
    } else if (copied == sent) {
      if (is_end) return;
      SpinThenWait(read_, [&](int64_t now_read) { return now_read > read; });
    }
    while (now < sent && BufferOf(now).copied.IsDone()) BufferOf(now++).weight.reset();
  }
}

void WeightUpload::Send(Buffer& buffer) {
  const Weight& weight = *buffer.weight;
  const DataTypeInfo stored = Info(weight.host.type);
  const auto bytes = [&](int64_t count) { return count / stored.block * stored.block_bytes; };
  Staging& staging = staging_[filled_];
  if (weight.is_turned && staging.count == 0) {
    copies_.Wait(staging.turned);  // what it held before
    staging.first = buffer.first;
  }
  const Tensor& target = weight.is_turned ? staging.bytes : weight.device;
  const int64_t at = weight.is_turned ? staging.count : buffer.first;
  CUDA_CHECK(cudaMemcpyAsync(static_cast<uint8_t*>(const_cast<void*>(target.raw())) + bytes(at),
                             buffer.pinned, static_cast<size_t>(bytes(buffer.count)),
                             cudaMemcpyHostToDevice, copies_.get()));
  copies_.Record(buffer.copied);
  if (!weight.is_turned) return;
  staging.count += buffer.count;
  const bool is_last = buffer.first + buffer.count == weight.host.shape.num_elements();
  if (!is_last && staging.count < kStagedParts * weight.part) return;
  turns_.Wait(buffer.copied);
  LaunchDequantize(turns_.get(),
                   Tensor::Borrow(const_cast<void*>(target.raw()), weight.host.type,
                                  {staging.count}, Device::kCuda),
                   staging.first, weight.host.order, weight.device);
  turns_.Record(staging.turned);
  staging.count = 0;
  filled_ = (filled_ + 1) % staging_.size();
}

}  // namespace penstock::cuda
