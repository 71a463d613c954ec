// Runs an attention launcher on the f32 arguments that a CPU twin takes.
#pragma once

#include <cstring>

#include "core/kernels/attention_args.h"
#include "tests/support/backends.h"

namespace penstock::testing {

// Gives to `to` the values of `from`, of any dense type.
inline void CopyAsFloat(const Tensor& from, const Tensor& to) {
  const Tensor values = As(DataType::kF32, from);
  std::memcpy(Tensor(to).raw(), values.raw(), static_cast<size_t>(to.bytes()));
}

// launch(gpu, args) gets copies of that type on the device, the output poisoned; what it writes to
// cache and output is copied back.
template <typename Launch>
void AttendOnGpu(DataType type, const AttentionArgs& args, const Launch& launch) {
  const Tensor qkv = As(type, args.qkv);
  const Tensor kv = As(type, args.kv);
  const Tensor out = Poisoned(args.out.shape(), type);
  {
    const GpuCall gpu;
    launch(gpu, AttentionArgs{gpu.In(qkv), gpu.In(args.row_starts), gpu.In(args.context_lens),
                              gpu.In(args.block_tables), args.heads, gpu.Out(kv), gpu.Out(out),
                              args.window});
  }
  CopyAsFloat(out, args.out);
  CopyAsFloat(kv, args.kv);
}

}  // namespace penstock::testing
