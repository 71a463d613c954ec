// Any bytes in protobuf's wire format as a penstock.v1.GenerateRequest: the validator refuses it
// with a sentence, or what passes is what the engine and the stage trust. A stage would end with a
// plan that its own check refuses, so that check is repeated here. Then the stop texts are looked
// for in a text, as in an answer.
//
// The fields are read by the mutators' own scanner, without a check, so that a field may be of any
// value; the numbers are those of proto/penstock/v1/inference.proto.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/base/utf8.h"
#include "frontend/answer_stream.h"
#include "frontend/request_validator.h"
#include "tests/fuzz/mutator.h"
#include "tests/support/small_vocabulary.h"

namespace penstock {
namespace {

using fuzz::WireField;

std::vector<WireField> Fields(std::string_view bytes) {
  return fuzz::ScanWire(bytes).value_or(std::vector<WireField>());
}

float Float(const WireField& field) {
  uint32_t bits = static_cast<uint32_t>(field.varint);
  if (field.type() == fuzz::kFixed32) std::memcpy(&bits, field.payload.data(), sizeof(bits));
  return std::bit_cast<float>(bits);
}

int32_t Int(const WireField& field) { return static_cast<int32_t>(field.varint); }
int64_t Long(const WireField& field) { return static_cast<int64_t>(field.varint); }

// One id, or many behind each other.
void AddIds(const WireField& field, std::vector<int32_t>* ids) {
  if (field.type() == fuzz::kVarint) ids->push_back(Int(field));
  std::string_view rest = field.payload;
  while (field.type() == fuzz::kBytes && !rest.empty()) {
    const auto value = fuzz::TakeVarint(rest);
    if (!value) return;
    ids->push_back(static_cast<int32_t>(*value));
  }
}

LogitBias Bias(const WireField& entry) {
  LogitBias bias;
  for (const WireField& field : Fields(entry.payload)) {
    if (field.tag >> 3 == 1) bias.token = Int(field);
    if (field.tag >> 3 == 2) bias.bias = Float(field);
  }
  return bias;
}

ClientSampling Sampling(std::string_view bytes) {
  ClientSampling sampling;
  for (const WireField& field : Fields(bytes)) {
    switch (field.tag >> 3) {
      case 1:
        sampling.max_tokens = Long(field);
        break;
      case 2:
        sampling.temperature = Float(field);
        break;
      case 3:
        sampling.top_k = Int(field);
        break;
      case 4:
        sampling.top_p = Float(field);
        break;
      case 5:
        sampling.seed = field.varint;
        break;
      case 6:
        sampling.logprobs = Int(field);
        break;
      case 7:
        sampling.min_p = Float(field);
        break;
      case 8:
        sampling.repetition_penalty = Float(field);
        break;
      case 9:
        sampling.presence_penalty = Float(field);
        break;
      case 10:
        sampling.frequency_penalty = Float(field);
        break;
      case 11:
        sampling.logit_bias.push_back(Bias(field));
        break;
      case 12:
        sampling.stop.push_back(field.payload);
        break;
      case 13:
        AddIds(field, &sampling.stop_ids);
        break;
      case 14:
        sampling.include_stop = field.varint != 0;
        break;
      case 15:
        sampling.min_tokens = Long(field);
        break;
      case 16:
        sampling.ignore_eos = field.varint != 0;
        break;
      case 17:
        sampling.n = Int(field);
        break;
      case 18:
        sampling.prompt_logprobs = Int(field);
        break;
      case 19:
        sampling.bad_words.push_back(field.payload);
        break;
      default:
        break;
    }
  }
  return sampling;
}

std::vector<ChatMessage> Chat(std::string_view bytes) {
  std::vector<ChatMessage> chat;
  for (const WireField& message : Fields(bytes)) {
    ChatMessage& one = chat.emplace_back();
    for (const WireField& field : Fields(message.payload)) {
      (field.tag >> 3 == 1 ? one.role : one.content) = field.payload;
    }
  }
  return chat;
}

ClientRequest Request(std::string_view bytes) {
  ClientRequest request;
  for (const WireField& field : Fields(bytes)) {
    switch (field.tag >> 3) {
      case 1:
        request.model = field.payload;
        break;
      case 2:
        request.prompt.text = field.payload;
        break;
      case 3:
        request.prompt.token_ids.emplace();
        for (const WireField& ids : Fields(field.payload)) AddIds(ids, &*request.prompt.token_ids);
        break;
      case 4:
        request.prompt.parse_special = field.varint != 0;
        break;
      case 5:
        request.sampling = Sampling(field.payload);
        break;
      case 6:
        request.prompt.chat = Chat(field.payload);
        break;
      case 7:
        request.priority = Int(field);
        break;
      case 8:
        request.tenant = field.payload;
        break;
      default:
        break;
    }
  }
  return request;
}

// What the validator stands before.
struct Served {
  Served() {
    TokenizerSpec spec = SmallVocabulary();
    AddToken("<|im_start|>", TokenizerSpec::TokenType::kControl, &spec);
    AddToken("<|im_end|>", TokenizerSpec::TokenType::kControl, &spec);
    ChatTemplateOptions options;
    options.layout = "chatml";
    chat = ChatTemplate::Make(spec, options);
    PENSTOCK_CHECK(chat.ok());
    tokenizer = MakeTokenizer(std::move(spec)).value();
    limits.model = "Small";
    limits.vocab_size = tokenizer->vocab_size();
    limits.context_length = 64;
    limits.max_new_tokens = 40;
    limits.default_max_tokens = 8;
    limits.max_prompt_bytes = 300;
    limits.max_chat_messages = 4;
    limits.max_n = 4;
    limits.max_stop_texts = 4;
    limits.max_stop_bytes = 16;
    limits.max_stop_ids = 4;
    limits.max_logit_bias = 4;
    limits.max_bad_words = 4;
    limits.max_priority = 3;
  }
  std::unique_ptr<Tokenizer> tokenizer;
  absl::StatusOr<ChatTemplate> chat = absl::UnknownError("");
  absl::StatusOr<ChatTemplate> no_chat = absl::UnimplementedError("its template is not known");
  RequestLimits limits;
};

void CheckIds(const std::vector<int32_t>& ids, const Served& served) {
  for (const int32_t id : ids) PENSTOCK_CHECK(id >= 0 && id < served.limits.vocab_size);
}

template <typename List, typename Key>
void CheckSorted(const List& list, const Key& key) {
  for (size_t i = 1; i < list.size(); ++i) PENSTOCK_CHECK(key(list[i - 1]) < key(list[i]));
}

void CheckSampling(const ClientSampling& asked, const SamplingParams& params,
                   const Served& served) {
  const float temperature = params.temperature;
  PENSTOCK_CHECK(temperature == 0 ||
                 (temperature >= kGreedyTemperature && temperature <= kMaxTemperature));
  PENSTOCK_CHECK(!std::signbit(temperature));
  PENSTOCK_CHECK(params.top_k >= 0);
  PENSTOCK_CHECK(params.top_p > 0 && params.top_p <= 1);
  PENSTOCK_CHECK(params.min_p >= 0 && params.min_p <= 1);
  PENSTOCK_CHECK(params.repetition_penalty > 0 && std::isfinite(params.repetition_penalty));
  PENSTOCK_CHECK(std::abs(params.presence_penalty) <= kMaxPenalty);
  PENSTOCK_CHECK(std::abs(params.frequency_penalty) <= kMaxPenalty);
  PENSTOCK_CHECK(params.logprobs >= 0 && params.logprobs <= served.limits.max_logprobs);
  PENSTOCK_CHECK(params.prompt_logprobs >= -1 &&
                 params.prompt_logprobs <= served.limits.max_logprobs);
  PENSTOCK_CHECK_EQ(params.choice, 0);
  PENSTOCK_CHECK_EQ(params.seed, asked.seed.value_or(77));
  for (const LogitBias& bias : params.logit_bias) {
    CheckIds({bias.token}, served);
    PENSTOCK_CHECK(std::abs(bias.bias) <= kMaxLogitBias);
  }
  CheckSorted(params.logit_bias, [](const LogitBias& bias) { return bias.token; });
  CheckIds(params.stop_ids, served);
  CheckSorted(params.stop_ids, [](int32_t id) { return id; });
  for (const int32_t id : served.tokenizer->end_ids()) {
    PENSTOCK_CHECK(asked.ignore_eos ||
                   std::binary_search(params.stop_ids.begin(), params.stop_ids.end(), id));
  }
  PENSTOCK_CHECK(params.bad_words.size() >= asked.bad_words.size() &&
                 params.bad_words.size() <= 2 * asked.bad_words.size());
  for (const std::vector<int32_t>& word : params.bad_words) {
    PENSTOCK_CHECK(!word.empty());
    CheckIds(word, served);
  }
}

void CheckPassed(const ClientRequest& asked, const CheckedRequest& checked, const Served& served) {
  const GenerationRequest& generation = checked.generation;
  const auto length = static_cast<int64_t>(generation.prompt.size());
  PENSTOCK_CHECK(length > 0);
  CheckIds(generation.prompt, served);
  PENSTOCK_CHECK(generation.max_tokens > 0 &&
                 generation.max_tokens <= served.limits.max_new_tokens);
  PENSTOCK_CHECK(length + generation.max_tokens <= served.limits.context_length);
  PENSTOCK_CHECK(generation.sampling.min_tokens >= 0 &&
                 generation.sampling.min_tokens <= generation.max_tokens);
  PENSTOCK_CHECK(std::abs(generation.priority) <= served.limits.max_priority);
  PENSTOCK_CHECK_EQ(generation.tenant, asked.tenant);
  PENSTOCK_CHECK(!FindInvalidUtf8(generation.tenant) &&
                 static_cast<int64_t>(generation.tenant.size()) <= kMaxTenantBytes);
  PENSTOCK_CHECK(checked.n >= 1 && checked.n <= served.limits.max_n);
  CheckSampling(asked.sampling, generation.sampling, served);
  PENSTOCK_CHECK(static_cast<int64_t>(checked.stop.size()) <= served.limits.max_stop_texts);
  for (const std::string& stop : checked.stop) {
    PENSTOCK_CHECK(!stop.empty() && !FindInvalidUtf8(stop));
    PENSTOCK_CHECK(static_cast<int64_t>(stop.size()) <= served.limits.max_stop_bytes);
  }
}

// The prompt over again as an answer: its text up to the first stop text.
void CheckAnswer(const CheckedRequest& checked, const Served& served) {
  CheckedRequest plain = checked;
  plain.generation.sampling.stop_ids.clear();
  plain.generation.sampling.min_tokens = 0;
  plain.include_stop = true;
  const std::string whole = Detokenize(*served.tokenizer, checked.generation.prompt);
  size_t end = std::string::npos;
  for (const std::string& stop : checked.stop) {
    const size_t at = whole.find(stop);
    if (at != std::string::npos) end = std::min(end, at + stop.size());
  }
  AnswerStream answer(*served.tokenizer, plain);
  std::string text;
  for (const int32_t id : checked.generation.prompt) {
    GeneratedToken token;
    token.id = id;
    text += answer.Add({&token, 1}).text;
    PENSTOCK_CHECK(!FindInvalidUtf8(text));
    if (answer.stopped()) break;
  }
  if (!answer.stopped()) text += answer.Finish();
  PENSTOCK_CHECK_EQ(text, whole.substr(0, end));

  // As it was asked for, in one piece.
  std::vector<GeneratedToken> tokens;
  for (const int32_t id : checked.generation.prompt) tokens.emplace_back().id = id;
  AnswerStream asked(*served.tokenizer, checked);
  const AnswerStream::Piece piece = asked.Add(tokens);
  PENSTOCK_CHECK_EQ(asked.num_tokens(), piece.tokens);
  PENSTOCK_CHECK(!asked.stopped() || piece.tokens > checked.generation.sampling.min_tokens);
  PENSTOCK_CHECK(!FindInvalidUtf8(piece.text + (asked.stopped() ? "" : asked.Finish())));
}

void CheckRefusal(const absl::Status& status) {
  const absl::StatusCode code = status.code();
  PENSTOCK_CHECK(code == absl::StatusCode::kInvalidArgument ||
                 code == absl::StatusCode::kOutOfRange || code == absl::StatusCode::kNotFound ||
                 code == absl::StatusCode::kFailedPrecondition);
  // Refusals stay small and printable, whatever the request holds.
  PENSTOCK_CHECK(!status.message().empty() && status.message().size() < 1000);
  for (const char c : Std(status.message())) PENSTOCK_CHECK(c >= 0x20 && c < 0x7f);
}

// Fields of penstock.v1, for the seeds.
void PutText(std::string& bytes, uint64_t number, std::string_view text) {
  fuzz::PutField(bytes, {number << 3 | fuzz::kBytes, 0, std::string(text)});
}
void PutInt(std::string& bytes, uint64_t number, uint64_t value) {
  fuzz::PutField(bytes, {number << 3 | fuzz::kVarint, value, ""});
}
void PutFloat(std::string& bytes, uint64_t number, float value) {
  std::string payload(sizeof(value), '\0');
  std::memcpy(payload.data(), &value, sizeof(value));
  fuzz::PutField(bytes, {number << 3 | fuzz::kFixed32, 0, payload});
}

std::string FullSampling() {
  std::string bias;
  PutInt(bias, 1, 7);
  PutFloat(bias, 2, 1.5f);
  std::string sampling;
  for (const uint64_t number : {1, 3, 5, 6, 13, 14, 15, 16, 17, 18}) PutInt(sampling, number, 1);
  for (const uint64_t number : {2, 4, 7, 8, 9, 10}) PutFloat(sampling, number, 0.5f);
  PutText(sampling, 11, bias);
  PutText(sampling, 12, "l");
  PutText(sampling, 12, "ab");
  PutText(sampling, 19, "hello");
  return sampling;
}

fuzz::Words Seeds() {
  std::string text, ids, packed, chat, message, messages;
  PutText(text, 2, "hello ab \xC3\xA9<|end|>");
  PutInt(text, 4, 1);
  PutText(text, 5, FullSampling());
  PutInt(text, 7, 3);
  PutText(text, 8, "team \xC3\xA9");
  PutText(packed, 1, "\x05\x40\x41\x42\x43\x43\xFF\x01");
  PutText(ids, 1, "Small");
  PutText(ids, 3, packed);
  PutText(ids, 5, FullSampling());
  PutInt(ids, 7, static_cast<uint64_t>(int64_t{-3}));
  PutText(ids, 8, std::string(static_cast<size_t>(kMaxTenantBytes), 't'));
  PutText(message, 1, "user");
  PutText(message, 2, "hello");
  PutText(messages, 1, message);
  PutText(messages, 1, message);
  PutText(chat, 6, messages);
  PutText(chat, 5, FullSampling());
  return {text, ids, chat};
}

}  // namespace
}  // namespace penstock

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  static const auto* const format = [] {
    auto* made = new penstock::fuzz::Format;
    made->seeds = penstock::Seeds();
    made->words = {"hello",  " ",       "\xC3\xA9", "\xE2\x82\xAC",
                   "\xFF",   "<|end|>", "user",     "assistant",
                   "system", "Small",   "\x04\x04", "aaaaaaaaaaaaaaaa"};
    made->change = penstock::fuzz::MutateWire;
    return made;
  }();
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto* const served = new penstock::Served;
  const penstock::ClientRequest request =
      penstock::Request({reinterpret_cast<const char*>(data), size});
  const auto checked = penstock::ValidateRequest(request, served->limits, *served->tokenizer,
                                                 size % 8 == 0 ? served->no_chat : served->chat,
                                                 /*fresh_seed=*/77);
  if (!checked.ok()) {
    penstock::CheckRefusal(checked.status());
    return 0;
  }
  penstock::CheckPassed(request, *checked, *served);
  penstock::CheckAnswer(*checked, *served);
  return 0;
}
