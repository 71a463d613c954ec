// A small tokenizer.json, for tests that change it and for the fuzzer.
#pragma once

#include <string>
#include <string_view>

namespace penstock {

// Byte-level BPE with the steps of Llama 3, three tokens, two merges and two added tokens, one of
// which is BOS; its vocabulary lacks most bytes.
inline constexpr std::string_view kByteLevelTokenizerJson = R"({
"version": "1.0", "truncation": null, "padding": null,
"added_tokens": [
 {"id": 5, "content": "<|begin|>", "single_word": false, "lstrip": false, "rstrip": false,
  "normalized": false, "special": true},
 {"id": 6, "content": "[TOOL]", "single_word": false, "lstrip": false, "rstrip": false,
  "normalized": false, "special": false}],
"normalizer": null,
"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
 {"type": "Split", "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
  "behavior": "Isolated", "invert": false},
 {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
"post_processor": {"type": "Sequence", "processors": [
 {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
 {"type": "TemplateProcessing",
  "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
  "pair": [], "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [5], "tokens": ["<|begin|>"]}}}]},
"decoder": {"type": "ByteLevel"},
"model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
 "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
 "vocab": {"h": 0, "e": 1, "y": 2, "he": 3, "hey": 4},
 "merges": [["h", "e"], ["he", "y"]]}
})";

// BPE with sentencepiece's spaces: the steps of Llama 2, merges in the older spelling.
inline constexpr std::string_view kSpacedTokenizerJson = R"({
"added_tokens": [
 {"id": 0, "content": "<unk>", "normalized": false, "special": true},
 {"id": 1, "content": "<s>", "normalized": false, "special": true}],
"normalizer": {"type": "Sequence", "normalizers": [
 {"type": "Prepend", "prepend": "\u2581"},
 {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
"pre_tokenizer": null,
"post_processor": {"type": "TemplateProcessing",
 "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
"model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
 "vocab": {"<unk>": 0, "<s>": 1, "<0x41>": 2, "\u2581": 3, "h": 4, "i": 5, "hi": 6, "\u2581hi": 7},
 "merges": ["h i", "\u2581 hi"]}
})";

// `text` with the first `from` in it replaced.
inline std::string Replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string changed(text);
  const size_t at = changed.find(from);
  return at == std::string::npos ? changed : changed.replace(at, from.size(), to);
}

}  // namespace penstock
