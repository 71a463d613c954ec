// The values of dummy weights: element i of a stream is word i % 4 of the Philox block (i / 4), as
// a number that is uniform in +-bound. Counter-based, so any part is made alone, by any thread, in
// vectors of any width, and is the same. Pure functions.
#pragma once

#include <cstdint>

namespace penstock {

// Elements [first, first + count) of the stream `key`. Vector instructions chosen at run time.
void DummyValues(uint64_t key, float bound, int64_t first, int64_t count, float* out);
// The same, rounded to bf16.
void DummyValues(uint64_t key, float bound, int64_t first, int64_t count, uint16_t* out);

// Element i alone: the plain version that the others equal bit by bit.
float DummyValue(uint64_t key, float bound, int64_t i);

}  // namespace penstock
