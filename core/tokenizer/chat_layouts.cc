#include "core/tokenizer/chat_layouts.h"

namespace penstock {
namespace {

using System = ChatLayout::System;
using Trim = ChatLayout::Trim;

constexpr ChatLayout kChatMl = {
    .name = "chatml",
    .system_before = "<|im_start|>system\n",
    .system_after = "<|im_end|>\n",
    .user_before = "<|im_start|>user\n",
    .user_after = "<|im_end|>\n",
    .assistant_before = "<|im_start|>assistant\n",
    .assistant_after = "<|im_end|>\n",
    .prompt = "<|im_start|>assistant\n",
    .control = {"<|im_start|>", "<|im_end|>"},
};

constexpr ChatLayout ChatMl(std::string_view name, std::string_view default_system,
                            bool thinks = false) {
  ChatLayout layout = kChatMl;
  layout.name = name;
  layout.default_system = default_system;
  layout.thinks = thinks;
  return layout;
}

constexpr ChatLayout Llama3(std::string_view name, System system) {
  return {
      .name = name,
      .begin = "<|begin_of_text|>",
      .system_before = "<|start_header_id|>system<|end_header_id|>\n\n",
      .system_after = "<|eot_id|>",
      .user_before = "<|start_header_id|>user<|end_header_id|>\n\n",
      .user_after = "<|eot_id|>",
      .assistant_before = "<|start_header_id|>assistant<|end_header_id|>\n\n",
      .assistant_after = "<|eot_id|>",
      .prompt = "<|start_header_id|>assistant<|end_header_id|>\n\n",
      .system = system,
      .trim = Trim::kEverybody,
      .control = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
  };
}

// Mistral's, which differ in spaces and in where the system's text goes: before the user's, with
// an empty line between.
constexpr ChatLayout Mistral(std::string_view name, std::string_view user_before,
                             std::string_view user_after, std::string_view assistant_before,
                             System system, Trim trim = Trim::kNobody) {
  return {
      .name = name,
      .begin = "<s>",
      .system_after = "\n\n",
      .user_before = user_before,
      .user_after = user_after,
      .assistant_before = assistant_before,
      .assistant_after = "</s>",
      .system = system,
      .trim = trim,
      .alternate = true,
      .control = {"<s>", "</s>"},
  };
}

constexpr ChatLayout kLlama2 = {
    .name = "llama2",
    .system_before = "<<SYS>>\n",
    .system_after = "\n<</SYS>>\n\n",
    .user_before = "<s>[INST] ",
    .user_after = " [/INST]",
    .assistant_before = " ",
    .assistant_after = " </s>",
    .system = System::kFirstUser,
    .trim = Trim::kEverybody,
    .alternate = true,
    .control = {"<s>", "</s>"},
};

constexpr ChatLayout kMistralV7 = {
    .name = "mistral-v7",
    .begin = "<s>",
    .system_before = "[SYSTEM_PROMPT] ",
    .system_after = "[/SYSTEM_PROMPT]",
    .user_before = "[INST] ",
    .user_after = "[/INST]",
    .assistant_before = " ",
    .assistant_after = "</s>",
    .control = {"<s>", "</s>", "[SYSTEM_PROMPT]"},
};

constexpr ChatLayout kLayouts[] = {
    kChatMl,
    ChatMl("smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    ChatMl("qwen2", "You are a helpful assistant."),
    ChatMl("qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    ChatMl("qwen3", "", /*thinks=*/true),
    kLlama2,
    Llama3("llama3", System::kMessage),
    Llama3("llama3.1", System::kDatedMessage),
    Mistral("mistral-v0", "[INST] ", " [/INST]", "", System::kRefused),
    Mistral("mistral-v1", " [INST] ", " [/INST]", " ", System::kFirstUser),
    Mistral("mistral-v3", "[INST] ", "[/INST]", " ", System::kLastUser, Trim::kAssistant),
    Mistral("mistral-v3-tekken", "[INST]", "[/INST]", "", System::kLastUser),
    kMistralV7,
};

struct KnownShape {
  uint64_t hash;
  std::string_view layout;
};

// Published templates. One line a shape; several models of a family may share one.
constexpr KnownShape kShapes[] = {
    {0x7f46d77298dc0099, "chatml"},
    // chatml-joined
    {0xe590eb9e09192072, "chatml"},
    // smollm2, qwen2 and others: the text that it holds tells them apart
    {0x6c73711969a35034, "chatml"},
    {0x1c05defe8ec8ac02, "qwen2.5"},
    {0xd10a7030800c6e99, "qwen3"},
    {0x317f3dd0e3a1a814, "llama2"},
    // llama2-system
    {0x4220978528367b8d, "llama2"},
    {0x235727bf2a93b11c, "llama3"},
    // llama3-first
    {0xf4e6ca836a1a9ab9, "llama3"},
    {0x818a6aa8fc537929, "llama3.1"},
    // llama3.2
    {0xda491dbb04686450, "llama3.1"},
    {0xefd818391660a2be, "mistral-v0"},
    {0xdabab185badef6ad, "mistral-v1"},
    {0x9f032dc32992117d, "mistral-v3"},
    // mistral-v3-brackets
    {0x8e877ad41e027db7, "mistral-v3"},
    {0x7b923aa2f629e4aa, "mistral-v3-tekken"},
    {0x14879cc9e67b7ba3, "mistral-v7"},
};

}  // namespace

std::span<const ChatLayout> ChatLayouts() { return kLayouts; }

const ChatLayout* FindChatLayout(std::string_view name) {
  for (const ChatLayout& layout : kLayouts) {
    if (layout.name == name) return &layout;
  }
  return nullptr;
}

const ChatLayout* ChatLayoutOfShape(uint64_t hash) {
  for (const KnownShape& shape : kShapes) {
    if (shape.hash == hash) return FindChatLayout(shape.layout);
  }
  return nullptr;
}

}  // namespace penstock
