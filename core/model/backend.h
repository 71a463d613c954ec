// Backend: where a stage computes: its kernels, and the memory that they and the host see. Tensors
// that the host fills for a step are its inputs, those that it reads after one its outputs; each
// has a kernels' view, which on the host is the tensor itself.
// One thread at a time, but for the allocators, which any thread may give memory back to.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/io/weight_stream.h"
#include "core/kernels/ops.h"
#include "core/tensor/allocator.h"
#include "core/tensor/device_mail.h"
#include "core/tensor/pool_allocator.h"
#include "core/tensor/tensor.h"

namespace penstock {

class Backend {
 public:
  virtual ~Backend() = default;

  virtual Ops& ops() = 0;
  // The element type of activations and of the KV cache.
  virtual DataType precision() const = 0;

  // Of tensors that kernels alone read and write.
  virtual BaseAllocator& memory() = 0;
  // The tensor as kernels of a step read weights: on the host what the stream has, or a copy. The
  // stream may be read until the first step; the backend keeps it. Errors: those of memory().
  virtual absl::StatusOr<Tensor> PlaceWeight(const WeightStream& packed) = 0;

  virtual BaseAllocator& inputs() = 0;
  virtual BaseAllocator& outputs() = 0;
  // REQUIRES: a dense part of a tensor of one of these two.
  virtual Tensor KernelView(const Tensor& shared) const = 0;
  // These parts of inputs, as they are now, are what the kernels called from now on see; the rows
  // of a part may be strided. The host may change inputs after the next AwaitInputs() or
  // FetchOutputs(). Also the first call of a step.
  virtual void SendInputs(std::span<const Tensor> used) = 0;
  // Waits until what was sent is where kernels see it.
  virtual void AwaitInputs() {}
  // token_ids[i] = tokens[from[i]], or 0 where that is no token; where from[i] < 0 what was sent
  // stays. By the kernels' views: i32, `from` and token_ids of one size.
  virtual void FeedTokens(const Tensor& from, const Tensor& tokens, const Tensor& token_ids) = 0;
  // These dense parts of inputs, as the kernels called so far leave them, are what the host reads
  // after the next FetchOutputs().
  virtual void ReturnInputs(std::span<const Tensor> written) = 0;
  // Of the numbers of tokens up to `most`, those with which a step should be run once before the
  // first that counts, so that nothing is loaded, chosen or allocated later.
  virtual std::vector<int64_t> WarmSizes(int64_t most) const = 0;
  // The numbers of rows, rising, up to `most` at most, to which a step that only decodes is filled
  // up with rows of padding, so that few numbers occur and RunDecodes can keep what each enqueues.
  // Each should be run twice before the first step that counts. A step of more rows is run as it
  // is.
  virtual std::vector<int64_t> DecodeSizes(int64_t most) const = 0;
  // Runs a step that decodes so many rows, one of the above. `enqueue` calls kernels; which, and
  // with which arguments, depends on the number of rows alone, and what changes from step to step
  // they read from inputs: a backend may keep what was enqueued and enqueue it again, without
  // calling `enqueue`.
  virtual void RunDecodes(int64_t rows, const std::function<void()>& enqueue) = 0;
  // Waits until all kernels so far are done, and their outputs are where the host reads them.
  virtual void FetchOutputs() = 0;
  // The same for one of two steps: what was called so far is the end of the one in `place`, 0 or 1.
  // So a step can be enqueued while the one before it runs.
  virtual void EndStep(int /*place*/) {}
  virtual bool IsDone(int /*place*/) const { return true; }
  virtual void AwaitStep(int /*place*/) { FetchOutputs(); }

  // Of a stage whose kernels hand rows and tokens to those of its neighbours; null where they go by
  // the host.
  virtual DeviceMail* mail() { return nullptr; }

  // All that is loaded, chosen or kept while warming up is: from now on steps only use it.
  virtual void EndWarming() = 0;
  // Of memory(); zeros where it has no pools.
  virtual PoolAllocatorStats MemoryStats() const = 0;
  // What is free of a device that has memory of its own, in bytes; else 0.
  virtual int64_t DeviceBytesFree() const = 0;
  // What is in use of a device that has memory of its own, by whomever, in bytes; else 0.
  virtual int64_t DeviceBytesInUse() const = 0;
  // Of the table of measured algorithms that matrix products follow; 0: none.
  virtual uint64_t TuningHash() const { return 0; }
};

}  // namespace penstock
