// Mutations of GGUF files that know where their entries lie: metadata values and tensor
// descriptions change, come twice or go, and the header's counts follow, but for one time in eight.
// Reads any bytes, as far as they are entries. Each call makes one change. Source of the format:
// the GGUF specification (ggml documentation, docs/gguf.md).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/io/gguf_format.h"
#include "tests/fuzz/binary_mutator.h"
#include "tests/fuzz/random.h"

namespace penstock::fuzz {

// Bytes of one entry: a metadata key with its value, or a tensor's description. What follows the
// name are a key's type and value, or a tensor's rank, dimensions, type and offset.
struct GgufEntry {
  size_t begin = 0;
  size_t after_name = 0;
  size_t end = 0;
  bool is_tensor = false;
};

class GgufEntries {
 public:
  static constexpr size_t kHeader = 24;
  static constexpr size_t kTensorCount = 8;
  static constexpr size_t kKeyCount = 16;

  explicit GgufEntries(const std::string& file) : file_(file) {
    uint64_t tensors = 0;
    uint64_t keys = 0;
    at_ = kTensorCount;
    ok_ = Read(&tensors) && Read(&keys);
    while (ok_ && keys-- > 0) Entry(false);
    while (ok_ && tensors-- > 0) Entry(true);
  }

  const std::vector<GgufEntry>& entries() const { return entries_; }

 private:
  template <typename T>
  bool Read(T* value) {
    if (file_.size() - at_ < sizeof(T)) return false;
    std::memcpy(value, file_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return true;
  }
  bool Skip(uint64_t count, uint64_t bytes) {
    if (count > file_.size() || count * bytes > file_.size() - at_) return false;
    at_ += count * bytes;
    return true;
  }
  bool SkipString() {
    uint64_t length = 0;
    return Read(&length) && Skip(length, 1);
  }
  bool SkipValue() {
    uint32_t type = 0;
    uint64_t count = 1;
    if (!Read(&type) || (type == kGgufArray && (!Read(&type) || !Read(&count)))) return false;
    if (type != kGgufString)
      return Skip(count, static_cast<uint64_t>(GgufScalarBytes(type).value_or(0)));
    while (count > 0 && SkipString()) --count;
    return count == 0;
  }
  bool SkipTensor() {
    uint32_t rank = 0;
    return Read(&rank) && Skip(rank, 8) && Skip(1, 4 + 8);
  }
  void Entry(bool is_tensor) {
    GgufEntry entry;
    entry.begin = at_;
    entry.is_tensor = is_tensor;
    ok_ = SkipString();
    entry.after_name = at_;
    ok_ = ok_ && (is_tensor ? SkipTensor() : SkipValue());
    entry.end = at_;
    if (ok_) entries_.push_back(entry);
  }

  const std::string& file_;
  size_t at_ = 0;
  bool ok_ = false;
  std::vector<GgufEntry> entries_;
};

// Another name of the file or of the format's words, with its length.
inline void Rename(std::string& file, const GgufEntry& entry, Random& random, const Words& words) {
  const std::string& word = random.Pick(words);
  const uint64_t length = word.size();
  std::string name(8, '\0');
  std::memcpy(name.data(), &length, 8);
  file.replace(entry.begin, entry.after_name - entry.begin, name + word);
}

inline void MutateGguf(std::string& file, Random& random, const Words& words) {
  if (file.size() < GgufEntries::kHeader) return MutateBinary(file, random, words);
  const std::vector<GgufEntry> entries = GgufEntries(file).entries();
  if (entries.empty() || random.OneIn(16)) return MutateBinary(file, random, words);
  if (random.OneIn(16)) return SetInteger(file, 4 + 4 * random.Below(5), 8, random);
  const GgufEntry entry = random.Pick(entries);
  const std::string bytes = file.substr(entry.begin, entry.end - entry.begin);
  const size_t count_at = entry.is_tensor ? GgufEntries::kTensorCount : GgufEntries::kKeyCount;
  uint64_t count = 0;
  std::memcpy(&count, file.data() + count_at, sizeof(count));
  const size_t size_before = file.size();
  switch (random.Below(10)) {
    case 0:
      file.erase(entry.begin, bytes.size());
      --count;
      break;
    case 1:
      file.insert(entry.end, bytes);
      ++count;
      break;
    case 2:
      if (!words.empty()) Rename(file, entry, random, words);
      break;
    case 3:  // its type, of the same bytes: the first thing after a key, the last but one of a
             // tensor
      file[entry.is_tensor ? entry.end - 12 : entry.after_name] =
          static_cast<char>(random.Below(40));
      break;
    case 4:  // an integer or a float anywhere behind the name
    case 5:
    case 6:
    case 7: {
      const size_t length = entry.end - entry.after_name;
      const size_t at = random.OneIn(2) ? length - random.Below(std::min<size_t>(length, 9))
                                        : 4 + 8 * random.Below(3);
      if (at < length)
        SetInteger(file, entry.after_name + at, size_t{1} << random.Below(4), random);
      break;
    }
    case 8: {
      const uint32_t bits = random.Pick(kFloatBits);
      std::memcpy(file.data() + entry.end - 4, &bits, sizeof(bits));
      break;
    }
    default: {  // the value only: lengths and counts of the entry stay as they are
      std::string value = file.substr(entry.after_name, entry.end - entry.after_name);
      MutateBinary(value, random, words);
      file.replace(entry.after_name, entry.end - entry.after_name, value);
    }
  }
  if (!random.OneIn(8)) std::memcpy(file.data() + count_at, &count, sizeof(count));
  // The tensors' data moves up to the next multiple of the alignment: let it not end too early.
  if (file.size() != size_before) file.append(32, '\0');
}

}  // namespace penstock::fuzz
