// Fuzz target: any text as the tokenizer_config.json, the generation_config.json and the chat
// template of a Hugging Face folder, beside a small vocabulary. What is read names tokens of that
// vocabulary.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "core/base/check.h"
#include "core/io/tokenizer_folder.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/fuzz/check_message.h"
#include "tests/fuzz/mutator.h"
#include "tests/support/safetensors_builder.h"
#include "tests/support/sentencepiece_builder.h"

namespace penstock {
namespace {

constexpr const char* kSeeds[] = {
    R"({"bos_token":"<s>","eos_token":{"content":"</s>","special":true},"add_bos_token":true,)"
    R"("add_eos_token":false,"chat_template":"{{ messages }}","eos_token_id":[1,2]})",
    R"({"bos_token":null,"chat_template":[{"name":"default","template":"{{ messages }}"},)"
    R"({"name":"tool_use","template":""}],"eos_token_id":12})"};

// One file under three names, for every name has keys of its own.
class Folder {
 public:
  Folder(std::string_view vocabulary, std::string_view text) {
    namespace fs = std::filesystem;
    folder_.Write(vocabulary, text);
    fs::create_symlink("tokenizer_config.json", folder_.Path("generation_config.json"));
    fs::create_symlink("tokenizer_config.json", folder_.Path("chat_template.jinja"));
  }
  const std::string& path() const { return folder_.path(); }
  void Write(std::string_view text) const { folder_.Write("tokenizer_config.json", text); }

 private:
  testing::TempFolder folder_;
};

void ReadAndCheck(const Folder& folder) {
  const auto spec = ReadTokenizerFolder(folder.path(), /*vocab_size=*/16);
  if (!spec.ok()) return fuzz::CheckMessage(spec.status(), folder.path());
  PENSTOCK_CHECK_EQ(spec->tokens.size(), size_t{16});
  PENSTOCK_CHECK_GE(spec->bos_id, spec->add_bos ? 0 : -1);
  PENSTOCK_CHECK_LT(spec->bos_id, 16);
  for (size_t i = 0; i < spec->end_ids.size(); ++i) {
    PENSTOCK_CHECK_GE(spec->end_ids[i], i == 0 ? 0 : spec->end_ids[i - 1] + 1);
    PENSTOCK_CHECK_LT(spec->end_ids[i], 16);
  }
  PENSTOCK_CHECK(MakeTokenizer(*spec).ok());
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using penstock::Folder;
  // One vocabulary with BOS and one without; removed at the end of the program.
  static const Folder with_bos("tokenizer.model", penstock::TinySentencePiece().Build());
  static const Folder without_bos(
      "tokenizer.json", R"({"model":{"vocab":{"hello":0,"<s>":1,"</s>":2},"merges":[]},)"
                        R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false}})");
  const Folder& folder = size % 2 == 0 ? with_bos : without_bos;
  folder.Write({reinterpret_cast<const char*>(data), size});
  penstock::ReadAndCheck(folder);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using penstock::fuzz::Format;
  static const auto* const format = new Format{
      "{",
      {std::begin(penstock::kSeeds), std::end(penstock::kSeeds)},
      {"bos_token", "eos_token", "add_bos_token", "add_eos_token", "chat_template", "eos_token_id",
       "content", "name", "template", "default", "<s>", "</s>", "<unk>", "hello"},
      penstock::fuzz::MutateJson};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
