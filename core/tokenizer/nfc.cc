#include "core/tokenizer/nfc.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/base/utf8.h"
#include "core/tokenizer/nfc_tables.h"

namespace penstock {
namespace {

constexpr uint32_t kCodePointMask = 0x1FFFFF;

// Hangul syllables are arithmetic (Unicode standard, section 3.12).
constexpr char32_t kSyllable = 0xAC00;
constexpr char32_t kLeading = 0x1100;
constexpr char32_t kVowel = 0x1161;
constexpr char32_t kTrailing = 0x11A7;
constexpr char32_t kNumLeading = 19;
constexpr char32_t kNumVowels = 21;
constexpr char32_t kNumTrailing = 28;
constexpr char32_t kNumSyllables = kNumLeading * kNumVowels * kNumTrailing;

struct Mark {
  char32_t value;
  uint8_t combining;  // its class; 0: a starter
};

uint8_t CombiningClass(char32_t character) {
  const auto* run =
      std::upper_bound(kCombining.begin(), kCombining.end(), character,
                       [](char32_t value, uint32_t each) { return value < each >> 11; });
  if (run == kCombining.begin()) return 0;
  --run;
  const uint32_t length = (*run >> 8 & 7) + 1;
  return character - (*run >> 11) < length ? static_cast<uint8_t>(*run & 0xFF) : 0;
}

void Decompose(char32_t character, std::vector<Mark>* out) {
  if (character >= kSyllable && character < kSyllable + kNumSyllables) {
    const char32_t index = character - kSyllable;
    out->push_back({kLeading + index / (kNumVowels * kNumTrailing), 0});
    out->push_back({kVowel + index / kNumTrailing % kNumVowels, 0});
    if (index % kNumTrailing != 0) out->push_back({kTrailing + index % kNumTrailing, 0});
    return;
  }
  const auto* entry =
      std::lower_bound(kDecompositions.begin(), kDecompositions.end(), character,
                       [](uint64_t each, char32_t value) { return each >> 43 < value; });
  if (entry == kDecompositions.end() || *entry >> 43 != character) {
    out->push_back({character, CombiningClass(character)});
    return;
  }
  // A first half may itself have a decomposition, to a depth of three.
  Decompose(static_cast<char32_t>(*entry >> 22 & kCodePointMask), out);
  const auto second = static_cast<char32_t>(*entry >> 1 & kCodePointMask);
  if (second != 0) Decompose(second, out);
}

using Compositions = absl::flat_hash_map<uint64_t, char32_t>;

const Compositions& AllCompositions() {
  static const auto* const all = [] {
    auto* made = new Compositions;
    for (const uint64_t entry : kDecompositions) {
      if ((entry & 1) != 0) {
        made->emplace(entry >> 1 & ((uint64_t{1} << 42) - 1), static_cast<char32_t>(entry >> 43));
      }
    }
    return made;
  }();
  return *all;
}

// What two characters compose to, or 0.
char32_t Compose(char32_t first, char32_t second) {
  const char32_t leading = first - kLeading;
  const char32_t vowel = second - kVowel;
  if (leading < kNumLeading && vowel < kNumVowels) {
    return kSyllable + (leading * kNumVowels + vowel) * kNumTrailing;
  }
  const char32_t syllable = first - kSyllable;
  const char32_t trailing = second - kTrailing;
  if (syllable < kNumSyllables && syllable % kNumTrailing == 0 && trailing > 0 &&
      trailing < kNumTrailing) {
    return first + trailing;
  }
  const auto found = AllCompositions().find(uint64_t{first} << 21 | second);
  return found == AllCompositions().end() ? 0 : found->second;
}

}  // namespace

bool IsCertainlyNfc(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char byte) { return static_cast<uint8_t>(byte) < 0xCC; });
}

std::string NormalizeNfc(std::string_view text) {
  std::vector<Mark> marks;
  marks.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    Decompose(step.value, &marks);
    text.remove_prefix(static_cast<size_t>(step.length));
  }
  // Marks between two starters stand in the order of their classes.
  for (auto begin = marks.begin(); begin != marks.end();) {
    const auto end =
        std::find_if(begin + 1, marks.end(), [](const Mark& mark) { return mark.combining == 0; });
    const auto first = begin->combining == 0 ? begin + 1 : begin;
    std::stable_sort(first, end,
                     [](const Mark& a, const Mark& b) { return a.combining < b.combining; });
    begin = end;
  }
  // A character joins the last starter unless one between them, of its class or a higher one, is in
  // the way.
  size_t kept = 0;
  size_t starter = SIZE_MAX;
  for (const Mark mark : marks) {
    if (starter != SIZE_MAX) {
      const bool adjacent = starter + 1 == kept;
      const bool blocked = !adjacent && marks[kept - 1].combining >= mark.combining;
      if (const char32_t joined = blocked ? 0 : Compose(marks[starter].value, mark.value)) {
        marks[starter].value = joined;
        continue;
      }
    }
    if (mark.combining == 0) starter = kept;
    marks[kept++] = mark;
  }
  std::string normalized;
  for (size_t i = 0; i < kept; ++i) AppendUtf8(marks[i].value, &normalized);
  return normalized;
}

}  // namespace penstock
