// In which order the kernels of a step sum, where they have a choice.
#pragma once

#include <cstdint>

namespace penstock::cuda {

enum class SumOrder : uint8_t {
  kFastest,  // what is fast for this batch: the same steps give the same bits
  // One order for an element, whatever the batch, the chunk and the way, prefill or decode:
  // sum_chain.h has linear's, attention_segment.cuh attention's. f16 and bf16, in attention head
  // dims 64, 96 and 128.
  kFixed,
};

}  // namespace penstock::cuda
