// Every field at, inside and outside of its borders, and absent.
#include "frontend/sampling_validator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <set>

#include "frontend/request_validator.h"
#include "tests/support/small_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class SamplingValidatorTest : public testing::Test {
 protected:
  SamplingValidatorTest() : tokenizer_(MakeTokenizer(SmallVocabulary()).value()) {
    limits_.model = "Small";
    limits_.vocab_size = tokenizer_->vocab_size();
    limits_.context_length = 32;
    limits_.default_max_tokens = 8;
  }
  absl::StatusOr<CheckedRequest> Validate(const ClientSampling& sampling) const {
    ClientRequest request;
    request.prompt.text.emplace("hello");
    request.sampling = sampling;
    return ValidateRequest(request, limits_, *tokenizer_, chat_template_, /*fresh_seed=*/77);
  }
  bool Passes(const ClientSampling& sampling) const { return Validate(sampling).ok(); }
  SamplingParams Params(const ClientSampling& sampling) const {
    const absl::StatusOr<CheckedRequest> checked = Validate(sampling);
    EXPECT_TRUE(IsOk(checked));
    return checked.ok() ? checked->generation.sampling : SamplingParams();
  }
  // Refused with the name of the field.
  void ExpectRefused(const ClientSampling& sampling, std::string_view field) const {
    EXPECT_TRUE(Fails(Validate(sampling), absl::StatusCode::kInvalidArgument, {field}));
  }

  std::vector<int32_t> Ids(std::string_view text) const {
    const TextPart part{text, false};
    return tokenizer_->EncodeParts({&part, 1}, false).value();
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  const absl::StatusOr<ChatTemplate> chat_template_ = absl::FailedPreconditionError("none");
  RequestLimits limits_;
};

TEST_F(SamplingValidatorTest, FillsInTheDefaults) {
  const SamplingParams params = Params({});
  EXPECT_EQ(params.temperature, 1.0f);
  EXPECT_EQ(params.top_k, 0);
  EXPECT_EQ(params.top_p, 1.0f);
  EXPECT_EQ(params.min_p, 0.0f);
  EXPECT_EQ(params.min_tokens, 0);
  EXPECT_EQ(params.logprobs, 0);
  EXPECT_EQ(params.prompt_logprobs, -1);
  EXPECT_EQ(params.seed, 77u);
  EXPECT_EQ(params.choice, 0);
  EXPECT_EQ(params.stop_ids, (std::vector<int32_t>{0, 1}));
  EXPECT_TRUE(params.logit_bias.empty());
  EXPECT_FALSE(params.needs_history());
}

TEST_F(SamplingValidatorTest, FloatsAtTheirBorders) {
  struct Field {
    const char* name;
    std::optional<float> ClientSampling::*field;
    float SamplingParams::*result;
    float absent, min, max;
    bool with_min = true;  // whether min itself passes
  };
  using C = ClientSampling;
  using P = SamplingParams;
  const Field fields[] = {
      {"temperature", &C::temperature, &P::temperature, 1, 0, 100},
      {"top_p", &C::top_p, &P::top_p, 1, 0, 1, false},
      {"min_p", &C::min_p, &P::min_p, 0, 0, 1},
      {"repetition_penalty", &C::repetition_penalty, &P::repetition_penalty, 1, 0.01f, 100},
      {"presence_penalty", &C::presence_penalty, &P::presence_penalty, 0, -2, 2},
      {"frequency_penalty", &C::frequency_penalty, &P::frequency_penalty, 0, -2, 2},
  };
  for (const Field& one : fields) {
    SCOPED_TRACE(one.name);
    ClientSampling sampling;
    EXPECT_EQ(Params(sampling).*one.result, one.absent);
    const auto refused = [&](float value) {
      sampling.*one.field = value;
      ExpectRefused(sampling, absl::StrCat(one.name, " is ", value));
    };
    const auto passes = [&](float value) {
      sampling.*one.field = value;
      EXPECT_EQ(Params(sampling).*one.result, value);
    };
    one.with_min ? passes(one.min) : refused(one.min);
    passes(std::nextafter(one.max, 0.0f));
    passes(one.max);
    refused(one.min - 1);
    refused(std::nextafter(one.min, -kInf));
    refused(one.max + 1);
    refused(std::nextafter(one.max, kInf));
    refused(NAN);
    refused(-NAN);
    refused(kInf);
    refused(-kInf);
    sampling.*one.field = -0.0f;
    if (one.min <= 0 && one.with_min) {
      EXPECT_FALSE(std::signbit(Params(sampling).*one.result) && one.min == 0);
    } else {
      ExpectRefused(sampling, one.name);
    }
  }
}

TEST_F(SamplingValidatorTest, AlmostZeroTemperatureIsGreedy) {
  ClientSampling sampling;
  for (const auto& [asked, expected] : std::initializer_list<std::pair<float, float>>{
           {9e-6f, 0.0f}, {-0.0f, 0.0f}, {1e-5f, 1e-5f}, {1e-45f, 0.0f}}) {
    sampling.temperature = asked;
    EXPECT_EQ(Params(sampling).temperature, expected) << asked;
  }
}

TEST_F(SamplingValidatorTest, IntegersAtTheirBorders) {
  struct Field {
    const char* name;
    std::function<void(ClientSampling*, int64_t)> set;
    int64_t min, max;
    bool wide = false;  // 64 bits
  };
  limits_.max_new_tokens = 20;
  const Field fields[] = {
      {"top_k", [](auto* s, int64_t v) { s->top_k = static_cast<int32_t>(v); }, 0, INT32_MAX},
      {"n", [](auto* s, int64_t v) { s->n = static_cast<int32_t>(v); }, 1, 16},
      {"logprobs", [](auto* s, int64_t v) { s->logprobs = static_cast<int32_t>(v); }, 0, 20},
      {"prompt_logprobs", [](auto* s, int64_t v) { s->prompt_logprobs = static_cast<int32_t>(v); },
       0, 20},
      {"max_tokens", [](auto* s, int64_t v) { s->max_tokens = v; }, 1, 20, true},
      {"min_tokens", [](auto* s, int64_t v) { s->min_tokens = v; }, 0, 8, true},
  };
  for (const Field& one : fields) {
    SCOPED_TRACE(one.name);
    std::set<int64_t> values = {one.min - 1, one.min,   one.min + 1, one.max - 1,
                                one.max,     INT32_MIN, INT32_MAX};
    if (one.wide) values.insert({INT64_MIN, INT64_MAX, int64_t{1} << 32});
    if (one.max < INT32_MAX) values.insert(one.max + 1);
    for (const int64_t value : values) {
      ClientSampling sampling;
      one.set(&sampling, value);
      if (value >= one.min && value <= one.max) {
        EXPECT_TRUE(IsOk(Validate(sampling))) << value;
      } else {
        ExpectRefused(sampling, absl::StrCat(one.name, " is ", value));
      }
    }
  }
}

TEST_F(SamplingValidatorTest, LogprobsAbsentAndPresent) {
  ClientSampling sampling;
  EXPECT_FALSE(Validate(sampling)->tell_logprobs);
  sampling.logprobs = 0;
  sampling.prompt_logprobs = 0;
  EXPECT_TRUE(Validate(sampling)->tell_logprobs);
  EXPECT_EQ(Params(sampling).logprobs, 0);
  EXPECT_EQ(Params(sampling).prompt_logprobs, 0);
  sampling.logprobs = 5;
  EXPECT_EQ(Params(sampling).logprobs, 5);
  limits_.max_logprobs = INT32_MAX;
  sampling.logprobs = kMaxLogprobs;
  EXPECT_TRUE(Passes(sampling));
  ++*sampling.logprobs;
  ExpectRefused(sampling, "logprobs is 101: it must be 0 (the token itself) to 100");
}

TEST_F(SamplingValidatorTest, LogitBias) {
  const auto last = static_cast<int32_t>(limits_.vocab_size) - 1;
  ClientSampling sampling;
  sampling.logit_bias = {{last, 100.0f}, {0, -100.0f}, {7, 0.5f}};
  const std::vector<LogitBias> sorted = Params(sampling).logit_bias;
  ASSERT_EQ(sorted.size(), 3u);
  EXPECT_EQ(sorted[0].token, 0);
  EXPECT_EQ(sorted[1].bias, 0.5f);
  EXPECT_EQ(sorted[2].token, last);
  for (const float bias : {100.5f, -101.0f, static_cast<float>(NAN), kInf, -kInf}) {
    sampling.logit_bias = {{7, bias}};
    ExpectRefused(sampling, "logit_bias of token id 7 is");
  }
  for (const int32_t token : {-1, last + 1, INT32_MIN, INT32_MAX}) {
    sampling.logit_bias = {{token, 1.0f}};
    ExpectRefused(sampling, absl::StrCat("token id ", token));
  }
  sampling.logit_bias = {{7, 1.0f}, {8, 1.0f}, {7, 2.0f}};
  ExpectRefused(sampling, "token id 7 twice");
  limits_.max_logit_bias = 2;
  sampling.logit_bias = {{7, 1.0f}, {8, 1.0f}};
  EXPECT_TRUE(Passes(sampling));
  sampling.logit_bias.push_back({9, 1.0f});
  ExpectRefused(sampling, "logit_bias has 3 entries");
}

TEST_F(SamplingValidatorTest, StopIdsAreTheClientsAndTheModels) {
  const auto vocab = static_cast<int32_t>(limits_.vocab_size);
  ClientSampling sampling;
  sampling.stop_ids = {9, 1, 9, vocab - 1};
  EXPECT_EQ(Params(sampling).stop_ids, (std::vector<int32_t>{0, 1, 9, vocab - 1}));
  sampling.ignore_eos = true;
  EXPECT_EQ(Params(sampling).stop_ids, (std::vector<int32_t>{1, 9, vocab - 1}));
  sampling.stop_ids.clear();
  EXPECT_TRUE(Params(sampling).stop_ids.empty());
  for (const int32_t id : {-1, vocab, INT32_MIN, INT32_MAX}) {
    sampling.stop_ids = {3, id};
    ExpectRefused(sampling, absl::StrCat("token id ", id, " at position 1 of stop_ids"));
  }
  sampling.stop_ids.assign(256, 3);
  EXPECT_TRUE(Passes(sampling));
  sampling.stop_ids.push_back(3);
  ExpectRefused(sampling, "stop_ids has 257 entries");
}

TEST_F(SamplingValidatorTest, StopTexts) {
  ClientSampling sampling;
  sampling.stop = {"a", std::string(256, 'b'), "\xC3\xA9"};
  sampling.include_stop = true;
  EXPECT_EQ(Validate(sampling)->stop, sampling.stop);
  EXPECT_TRUE(Validate(sampling)->include_stop);
  for (const std::string& bad : {std::string(), std::string(257, 'b'), std::string("\xC3")}) {
    sampling.stop = {"a", bad};
    ExpectRefused(sampling, "stop[1]");
  }
  sampling.stop.assign(16, "a");
  EXPECT_TRUE(Passes(sampling));
  sampling.stop.push_back("a");
  ExpectRefused(sampling, "stop has 17 entries");
}

TEST_F(SamplingValidatorTest, BadWordsBecomeTokensWithAndWithoutASpace) {
  ClientSampling sampling;
  sampling.bad_words = {"hello"};
  const std::vector<std::vector<int32_t>> both = {Ids("hello"), Ids(" hello")};
  ASSERT_EQ(both[1].size(), 1u);  // a token of its own
  EXPECT_EQ(Params(sampling).bad_words, both);
  EXPECT_TRUE(Params(sampling).needs_history());
  // The space is a token by itself, so the text's own tokens cover both.
  sampling.bad_words = {"zq"};
  EXPECT_EQ(Params(sampling).bad_words, (std::vector<std::vector<int32_t>>{Ids("zq")}));
  sampling.bad_words = {"  hello"};
  EXPECT_EQ(Params(sampling).bad_words, both);
  for (const std::string& bad : {std::string(), std::string("   "), std::string("\x04"),
                                 std::string("a\xFF"), std::string(257, 'b')}) {
    sampling.bad_words = {"ok", bad};
    ExpectRefused(sampling, "bad_words[1]");
  }
  sampling.bad_words.assign(128, "x");
  EXPECT_TRUE(Passes(sampling));
  sampling.bad_words.push_back("x");
  ExpectRefused(sampling, "bad_words has 129 entries");
}

TEST_F(SamplingValidatorTest, MinTokensIsNotMoreThanMaxTokens) {
  ClientSampling sampling;
  sampling.min_tokens = 9;
  ExpectRefused(sampling, "min_tokens is 9 and max_tokens 8");
  sampling.max_tokens = 9;
  EXPECT_EQ(Params(sampling).min_tokens, 9);
  sampling.min_tokens = 1000;
  sampling.max_tokens = 1000;
  EXPECT_EQ(Params(sampling).min_tokens, 31);  // "hello" is one token
}

}  // namespace
}  // namespace penstock
