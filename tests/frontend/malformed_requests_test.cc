// Over a thousand bad requests of every kind among good ones: each gets its code and a sentence,
// and the good ones get what they get alone, to the byte.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <future>
#include <limits>
#include <random>

#include "tests/support/inference_fixture.h"
#include "tests/support/raw_call.h"

namespace penstock {
namespace {

constexpr char kGenerate[] = "/penstock.v1.Inference/Generate";

class MalformedRequestsTest : public InferenceFixture {
 protected:
  // All that an answer says, whatever messages it came in.
  struct Answer {
    grpc::StatusCode code = grpc::StatusCode::UNKNOWN;
    std::vector<int32_t> ids;
    std::string text;
    v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
    std::string usage;

    bool operator==(const Answer& other) const {
      return code == other.code && ids == other.ids && text == other.text &&
             reason == other.reason && usage == other.usage;
    }
  };

  Answer Ask(const v1::GenerateRequest& request) {
    Answer answer;
    Responses responses;
    answer.code = Generate(request, &responses, std::chrono::seconds(60)).error_code();
    for (const v1::GenerateResponse& response : responses) answer.text += response.text();
    answer.ids = Ids(responses);
    if (!responses.empty()) {
      answer.reason = responses.back().finish_reason();
      answer.usage = responses.back().usage().SerializeAsString();
    }
    return answer;
  }

  // One thing wrong with a good request.
  void Spoil(std::mt19937& random, v1::GenerateRequest* request) const {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    const float floats[] = {NAN,
                            -NAN,
                            kInf,
                            -kInf,
                            -3.0f,
                            101.0f,
                            std::nextafter(100.0f, kInf),
                            std::numeric_limits<float>::lowest()};
    const int32_t ids[] = {-1, model_.vocab_size, INT32_MIN, INT32_MAX};
    const float bad_float = floats[random() % 8];
    const int32_t bad_id = ids[random() % 4];
    const int32_t too_many = random() % 2 == 0 ? 1000 : INT32_MAX;
    const int32_t negative = random() % 2 == 0 ? -1 : INT32_MIN;
    const int32_t out = random() % 2 == 0 ? negative : too_many;
    v1::SamplingParams* sampling = request->mutable_sampling();
    switch (random() % 27) {
      case 0:
        request->clear_prompt();
        break;
      case 1:
        request->set_text("");
        break;
      case 2:
        request->set_text("\x04");
        break;
      case 3:
        request->mutable_token_ids()->clear_ids();
        break;
      case 4:
        request->mutable_token_ids()->set_ids(0, bad_id);
        break;
      case 5:
        request->mutable_token_ids()->mutable_ids()->Resize(300, 5);
        break;
      case 6:
        request->set_model("another");
        break;
      case 7:
        request->mutable_chat()->add_messages()->set_role("user");
        break;
      case 8:
        sampling->set_max_tokens(random() % 2 == 0 ? 0 : INT64_MIN);
        break;
      case 9:
        sampling->set_temperature(bad_float);
        break;
      case 10:
        sampling->set_top_p(bad_float);
        break;
      case 11:
        sampling->set_min_p(bad_float);
        break;
      case 12:
        sampling->set_repetition_penalty(bad_float);
        break;
      case 13:
        sampling->set_presence_penalty(bad_float);
        break;
      case 14:
        sampling->set_frequency_penalty(bad_float);
        break;
      case 15:
        sampling->set_top_k(negative);
        break;
      case 16:
        sampling->set_logprobs(out);
        break;
      case 17:
        sampling->set_prompt_logprobs(out);
        break;
      case 18:
        sampling->set_n(random() % 4 == 0 ? 0 : out);
        break;
      case 19:
        sampling->set_min_tokens(random() % 2 == 0 ? -1 : INT64_MAX);
        break;
      case 20:
        (*sampling->mutable_logit_bias())[bad_id] = 1.0f;
        break;
      case 21:
        (*sampling->mutable_logit_bias())[7] = 100 * bad_float;
        break;
      case 22:
        sampling->add_stop_ids(bad_id);
        break;
      case 23:
        sampling->add_stop(random() % 2 == 0 ? "" : std::string(300, 'x'));
        break;
      case 24:
        sampling->add_bad_words(random() % 2 == 0 ? " " : std::string(300, 'x'));
        break;
      case 25:
        for (int i = 0; i < 20; ++i) sampling->add_stop("x");
        break;
      default:
        request->set_text(std::string(3000, 'x'));
        break;  // longer than the context
    }
  }

  // The bytes of a bad request.
  std::string Bad(std::mt19937& random) const {
    v1::GenerateRequest request = Endless(2);
    if (random() % 2 == 0) {
      Spoil(random, &request);
      return request.SerializeAsString();
    }
    std::string bytes;
    if (random() % 2 == 0) {
      // Bytes that are no message: cut within its last field.
      request.mutable_sampling()->add_stop("something to be cut");
      bytes = request.SerializeAsString();
      bytes.resize(bytes.size() - 1 - random() % 15);
    } else {
      for (size_t i = random() % 40; i > 0; --i) bytes += static_cast<char>(random());
      bytes.insert(0, random() % 2 == 0 ? "\x12\x03"
                                          "ab\xff"
                                        : "\x0b");
    }
    return bytes;
  }
};

TEST_F(MalformedRequestsTest, HarmNobody) {
  StartAll();
  std::vector<v1::GenerateRequest> good;
  for (int32_t i = 0; i < 3; ++i) good.push_back(Endless(60, 20 + i));
  good[2].mutable_sampling()->add_stop("never to be found");
  std::vector<Answer> alone;
  for (const v1::GenerateRequest& request : good) {
    alone.push_back(Ask(request));
    ASSERT_EQ(alone.back().code, grpc::StatusCode::OK);
    ASSERT_EQ(alone.back().ids, Alone(request));
  }

  std::atomic<bool> over = false;
  std::atomic<int64_t> answered = 0;
  std::vector<std::future<void>> clients;
  for (size_t i = 0; i < good.size(); ++i) {
    clients.push_back(std::async(std::launch::async, [&, i] {
      while (!over) {
        const Answer answer = Ask(good[i]);
        EXPECT_TRUE(answer == alone[i]);
        ++answered;
      }
    }));
  }
  std::vector<std::future<void>> bad;
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    bad.push_back(std::async(std::launch::async, [this, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 400; ++i) {
        const std::string bytes = Bad(random);
        const grpc::Status status = CallRaw(channel_, kGenerate, bytes);
        const grpc::StatusCode code = status.error_code();
        EXPECT_TRUE(code == grpc::StatusCode::INVALID_ARGUMENT ||
                    code == grpc::StatusCode::OUT_OF_RANGE || code == grpc::StatusCode::NOT_FOUND ||
                    code == grpc::StatusCode::FAILED_PRECONDITION)
            << code << " " << status.error_message();
        EXPECT_GT(status.error_message().size(), 10u);
        EXPECT_LT(status.error_message().size(), 1000u);
      }
    }));
  }
  for (std::future<void>& client : bad) client.wait();
  over = true;
  for (std::future<void>& client : clients) client.wait();
  EXPECT_GT(answered, 10);
  EXPECT_TRUE(Eventually([this] { return EngineIsEmpty(); }));
  EXPECT_TRUE(runtime_->engine().healthy());
}

}  // namespace
}  // namespace penstock
