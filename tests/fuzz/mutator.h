// How a fuzz target makes inputs that get past a parser's first check. A target describes its
// format in a Format and defines
//
//   extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
//                                             unsigned seed) {
//     static const auto* const format = new penstock::fuzz::Format{...};
//     return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
//   }
//
// It needs no corpus of files: what does not look like the format begins as one of its seeds.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "tests/fuzz/binary_mutator.h"
#include "tests/fuzz/json_mutator.h"
#include "tests/fuzz/random.h"
#include "tests/fuzz/wire_mutator.h"

// libFuzzer's own: bits, bytes, copies, crossing over, what comparisons have shown.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace penstock::fuzz {

struct Format {
  // How every document begins, as far as can be said: "GGUF", "{".
  std::string prefix;
  // Small valid documents; at least one.
  Words seeds;
  // Spliced in where a text may stand.
  Words words;
  // One change: MutateBinary, MutateJson, MutateWire or the target's own.
  void (*change)(std::string& document, Random& random, const Words& words) = MutateBinary;
};

// One to four changes of the format, or libFuzzer's, one after the other in half of all cases.
inline size_t Mutate(const Format& format, uint8_t* data, size_t size, size_t max_size,
                     unsigned seed) {
  Random random(seed);
  std::string document(reinterpret_cast<const char*>(data), size);
  if (size < 2 || document.compare(0, format.prefix.size(), format.prefix) != 0) {
    if (size < 2 || !random.OneIn(16)) document = random.Pick(format.seeds);
  } else if (random.OneIn(256)) {
    document = random.Pick(format.seeds);
  }
  const size_t kind = random.Below(4);
  if (kind != 0) {
    for (size_t changes = 1 + random.Below(random.OneIn(2) ? 1 : 4); changes > 0; --changes) {
      format.change(document, random, format.words);
      document.resize(std::min(document.size(), max_size));
    }
  }
  size = std::min(document.size(), max_size);
  std::memcpy(data, document.data(), size);
  if (kind < 2 && size > 0) size = LLVMFuzzerMutate(data, size, max_size);
  return size;
}

}  // namespace penstock::fuzz
