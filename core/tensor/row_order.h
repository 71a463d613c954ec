// RowOrder: where rows of a matrix belong that a file has in another order. GGUF files of the llama
// architecture have the rows of query and key heads so that RoPE turns rows (2i, 2i + 1) of a head
// together; here it turns (i, i + head_dim / 2). A plain value.
#pragma once

#include <cstdint>

namespace penstock {

struct RowOrder {
  int64_t rows = 0;      // of whole heads, the matrix's first; those below are in place
  int64_t head_dim = 0;  // rows of a head: an even number

  // The file's row that belongs at `place`, and the other way round.
  int64_t Origin(int64_t place) const {
    if (place >= rows) return place;
    const int64_t i = place % head_dim;
    const int64_t half = head_dim / 2;
    return place - i + (i < half ? 2 * i : 2 * (i - half) + 1);
  }
  int64_t Place(int64_t origin) const {
    if (origin >= rows) return origin;
    const int64_t i = origin % head_dim;
    return origin - i + i / 2 + i % 2 * (head_dim / 2);
  }
};

}  // namespace penstock
