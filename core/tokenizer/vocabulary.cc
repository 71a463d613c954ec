#include "core/tokenizer/vocabulary.h"

namespace penstock {

absl::Status CheckVocabulary(const TokenizerSpec& spec) {
  const auto size = static_cast<int64_t>(spec.tokens.size());
  if (size == 0) return BadVocabulary("it has no tokens");
  if (size > INT32_MAX) {
    return BadVocabulary(absl::StrCat("it has ", size, " tokens, too many for 32 bits"));
  }
  if (spec.types.size() != spec.tokens.size()) {
    return BadVocabulary(
        absl::StrCat("it has ", size, " tokens but ", spec.types.size(), " token types"));
  }
  for (size_t i = 0; i < spec.end_ids.size(); ++i) {
    const int32_t id = spec.end_ids[i];
    if (id < 0 || id >= size) {
      return BadVocabulary(absl::StrCat("the end token's id ", id, " is not in 0 to ", size - 1));
    }
    if (i > 0 && id <= spec.end_ids[i - 1]) {
      return BadVocabulary("the end ids are not in ascending order");
    }
  }
  if (spec.bos_id < -1 || spec.bos_id >= size) {
    return BadVocabulary(
        absl::StrCat("the first token's id ", spec.bos_id, " is not in 0 to ", size - 1));
  }
  if (spec.add_bos && spec.bos_id == -1) {
    return BadVocabulary("texts shall begin with its first token (BOS), but it names none");
  }
  return absl::OkStatus();
}

}  // namespace penstock
