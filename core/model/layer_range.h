// LayerRange: the decoder layers of one stage. Plain value.
#pragma once

#include <cstdint>

namespace penstock {

// Layers [first, last) of a model.
struct LayerRange {
  int64_t first = 0;
  int64_t last = 0;

  int64_t count() const { return last - first; }
};

}  // namespace penstock
