#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "proto/worker_codec.h"
#include "tests/support/fake_executor.h"
#include "tests/support/status_matchers.h"
#include "tests/support/unset_fields.h"

namespace penstock {
namespace {

using Names = std::vector<std::string>;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// Every field has a value of its own, none its default.
StageOptions ExampleOptions() {
  StageOptions options;
  options.model = "/models/not UTF-8 \xff.gguf";
  options.kv_memory_bytes = int64_t{1} << 40;
  options.max_step_tokens = 17;
  options.max_sequences = 5;
  options.threads = 3;
  options.prefill_attention = PrefillAttention::kPadded;
  options.padded_memory_bytes = 12345;
  options.device = "cuda:3 \xfc";
  options.precision = DataType::kBF16;
  options.graphs = false;
  options.invariant = true;
  options.gemm_table = "table \xfd";
  options.guard_memory = true;
  options.check_file = "check \xfe";
  options.stage = 2;
  options.num_stages = 4;
  options.layers = {6, 9};
  options.model_hash = ~uint64_t{0};
  options.num_blocks = 77;
  options.plans_ahead = 8;
  options.mailbox_bytes = int64_t{3} << 40;
  options.device_mail = true;
  options.nccl = true;
  return options;
}

StageInfo ExampleInfo() {
  StageInfo info = FakeExecutor::Info({});
  info.config.rms_norm_eps = 1e-6f;
  info.config.rope_theta = 500000.0f;
  info.config.tied_embeddings = true;
  info.config.sliding_window = 100;
  info.config.qkv_bias = true;
  info.config.qk_norm = true;
  info.config.rope_scaling.type = RopeScaling::Type::kLlama3;
  info.config.rope_scaling.factor = 8;
  info.config.rope_scaling.low_freq_factor = 1;
  info.config.rope_scaling.high_freq_factor = 4;
  info.config.rope_scaling.original_context = 128;
  info.num_blocks = 32;
  info.weight_bytes = 1000;
  info.load_ns = 5;
  info.layers = {1, 2};
  info.model_hash = 99;
  info.block_bytes = 4096;
  info.address = "unix:/tmp/\xff";
  info.gemm_table_hash = ~uint64_t{1};
  info.last_epoch = 78;
  return info;
}

// The message that an encoder makes, as it comes out of the wire.
template <typename Message, typename Value>
Message Sent(void (*encode)(const Value&, Message*), const Value& value) {
  Message message;
  encode(value, &message);
  Message received;
  EXPECT_TRUE(received.ParseFromString(message.SerializeAsString()));
  return received;
}

// Decoding forgets nothing: encoded again, what it gives is the same bytes.
template <typename Message, typename Value>
void ExpectComesBack(void (*encode)(const Value&, Message*),
                     absl::StatusOr<Value> (*decode)(const Message&), const Value& value,
                     const Names& unset = {}) {
  const Message message = Sent(encode, value);
  EXPECT_EQ(UnsetFields(message), unset);
  const absl::StatusOr<Value> decoded = decode(message);
  ASSERT_TRUE(IsOk(decoded));
  EXPECT_EQ(Sent(encode, *decoded).SerializeAsString(), message.SerializeAsString());
}

TEST(StageCodecTest, EverythingComesBack) {
  ExpectComesBack(&EncodeStageOptions, &DecodeStageOptions, ExampleOptions());
  ExpectComesBack(&EncodeStageInfo, &DecodeStageInfo, ExampleInfo(),
                  {"penstock.worker.v1.RopeScaling.factors"});
  ExpectComesBack(&EncodeLoadProgress, &DecodeLoadProgress, LoadProgress{3, 4, "tensor \xff"});
  ExpectComesBack(&EncodeEpochStart, &DecodeEpochStart,
                  EpochStart{7, ~uint64_t{0}, 12, "unix:/a", "b:1", 5});
  ExpectComesBack(&EncodeBeat, &DecodeBeat,
                  StageBeat{3, 11, 12, StageBeat::Doing::kSends, 13, 14, 15, 16, 17, {18, 19, 20}});
  ExpectComesBack(&EncodeHello, &DecodeHello, WorkerHello{1000, "0.1 \xff", 123, 456});
}

TEST(StageCodecTest, ValuesArriveInTheirFields) {
  const absl::StatusOr<StageOptions> options =
      DecodeStageOptions(Sent(&EncodeStageOptions, ExampleOptions()));
  ASSERT_TRUE(IsOk(options));
  EXPECT_EQ(options->model, ExampleOptions().model);
  EXPECT_EQ(options->kv_memory_bytes, int64_t{1} << 40);
  EXPECT_EQ(options->max_step_tokens, 17);
  EXPECT_EQ(options->max_sequences, 5);
  EXPECT_EQ(options->threads, 3);
  EXPECT_EQ(options->prefill_attention, PrefillAttention::kPadded);
  EXPECT_EQ(options->padded_memory_bytes, 12345);
  EXPECT_EQ(options->device, "cuda:3 \xfc");
  EXPECT_EQ(options->precision, DataType::kBF16);
  EXPECT_FALSE(options->graphs);
  EXPECT_TRUE(options->invariant);
  EXPECT_EQ(options->check_file, "check \xfe");
  EXPECT_EQ(options->stage, 2);
  EXPECT_EQ(options->num_stages, 4);
  EXPECT_EQ(options->layers.first, 6);
  EXPECT_EQ(options->layers.last, 9);
  EXPECT_EQ(options->model_hash, ~uint64_t{0});
  EXPECT_EQ(options->num_blocks, 77);
  EXPECT_EQ(options->plans_ahead, 8);
  EXPECT_EQ(options->mailbox_bytes, int64_t{3} << 40);
  EXPECT_TRUE(options->device_mail);
  EXPECT_TRUE(options->nccl);

  const absl::StatusOr<StageInfo> info = DecodeStageInfo(Sent(&EncodeStageInfo, ExampleInfo()));
  ASSERT_TRUE(IsOk(info));
  EXPECT_EQ(info->config.architecture, "llama");
  EXPECT_EQ(info->config.name, "Fake");
  EXPECT_EQ(info->config.hidden_size, 64);
  EXPECT_EQ(info->config.intermediate_size, 128);
  EXPECT_EQ(info->config.num_layers, 2);
  EXPECT_EQ(info->config.num_heads, 4);
  EXPECT_EQ(info->config.num_kv_heads, 2);
  EXPECT_EQ(info->config.head_dim, 16);
  EXPECT_EQ(info->config.vocab_size, 50);
  EXPECT_EQ(info->config.context_length, 256);
  EXPECT_EQ(info->config.rms_norm_eps, 1e-6f);
  EXPECT_EQ(info->config.rope_theta, 500000.0f);
  EXPECT_EQ(info->layers.first, 1);
  EXPECT_EQ(info->layers.last, 2);
  EXPECT_EQ(info->model_hash, 99u);
  EXPECT_EQ(info->block_bytes, 4096);
  EXPECT_EQ(info->address, "unix:/tmp/\xff");
  EXPECT_EQ(info->gemm_table_hash, ~uint64_t{1});
  EXPECT_EQ(info->last_epoch, 78u);

  for (const auto doing : {StageBeat::Doing::kIdle, StageBeat::Doing::kWaitsForInput,
                           StageBeat::Doing::kComputes, StageBeat::Doing::kSends}) {
    StageBeat beat;
    beat.doing = doing;
    EXPECT_EQ(DecodeBeat(Sent(&EncodeBeat, beat))->doing, doing);
  }
}

TEST(StageCodecTest, ErrorComesBack) {
  worker::v1::Error message;
  EncodeError(absl::NotFoundError("no file \xff"), &message);
  EXPECT_EQ(UnsetFields(message), Names());
  EXPECT_EQ(DecodeError(message), absl::NotFoundError("no file \xff"));
  for (const int code : {0, -1, 17, 1000}) {
    message.set_code(code);
    EXPECT_EQ(DecodeError(message).code(), absl::StatusCode::kInternal) << code;
  }
}

// Spoils one field of an example, and expects that it is named.
template <typename Message, typename Value>
class Spoiler {
 public:
  Spoiler(void (*encode)(const Value&, Message*), absl::StatusOr<Value> (*decode)(const Message&),
          const Value& value)
      : decode_(decode), message_(Sent(encode, value)) {}
  void Expect(const char* field, const std::function<void(Message*)>& spoil) const {
    Message message = message_;
    spoil(&message);
    EXPECT_TRUE(Fails(decode_(message), kInvalid, {field}));
  }

 private:
  absl::StatusOr<Value> (*const decode_)(const Message&);
  const Message message_;
};

TEST(StageCodecTest, RefusesMalformedLoads) {
  using Request = worker::v1::LoadRequest;
  const Spoiler load(&EncodeStageOptions, &DecodeStageOptions, ExampleOptions());
  load.Expect("kv_memory_bytes is -1", [](Request* m) { m->set_kv_memory_bytes(-1); });
  load.Expect("mailbox_bytes is -1", [](Request* m) { m->set_mailbox_bytes(-1); });
  load.Expect("max_step_tokens", [](Request* m) { m->set_max_step_tokens(0); });
  load.Expect("max_sequences", [](Request* m) { m->set_max_sequences(INT64_MAX); });
  load.Expect("threads", [](Request* m) { m->set_threads(-2); });
  load.Expect("precision", [](Request* m) { m->set_precision("f64"); });
  load.Expect("prefill_attention", [](Request* m) {
    m->set_prefill_attention(static_cast<worker::v1::PrefillAttention>(2));
  });
  load.Expect("padded_memory_bytes", [](Request* m) { m->set_padded_memory_bytes(-1); });
  load.Expect("num_stages", [](Request* m) { m->set_num_stages(0); });
  load.Expect("LoadRequest.stage", [](Request* m) { m->set_stage(4); });
  load.Expect("LoadRequest.stage", [](Request* m) { m->set_stage(-1); });
  load.Expect("layers.first", [](Request* m) { m->mutable_layers()->set_first(10); });
  load.Expect("layers.first", [](Request* m) { m->mutable_layers()->set_first(-1); });
  load.Expect("layers.last", [](Request* m) { m->mutable_layers()->set_last(INT64_MAX); });
  load.Expect("num_blocks", [](Request* m) { m->set_num_blocks(-1); });
  load.Expect("plans_ahead", [](Request* m) { m->set_plans_ahead(0); });

  using Progress = worker::v1::LoadProgress;
  const Spoiler progress(&EncodeLoadProgress, &DecodeLoadProgress, LoadProgress{3, 4, "t"});
  progress.Expect("done", [](Progress* m) { m->set_done(5); });
  progress.Expect("total", [](Progress* m) { m->set_total(-1); });

  using Response = worker::v1::LoadResponse;
  const Spoiler info(&EncodeStageInfo, &DecodeStageInfo, ExampleInfo());
  info.Expect("LoadResponse.config", [](Response* m) { m->clear_config(); });
  info.Expect("num_blocks", [](Response* m) { m->set_num_blocks(0); });
  info.Expect("block_bytes", [](Response* m) { m->set_block_bytes(-1); });
  info.Expect("layers.first", [](Response* m) { m->mutable_layers()->set_first(-1); });
  info.Expect("last_epoch", [](Response* m) { m->set_last_epoch(uint32_t{1} << 31); });
  info.Expect("address.size", [](Response* m) { m->set_address(std::string(4097, 'a')); });
}

TEST(StageCodecTest, RefusesMalformedEpochsBeatsAndHellos) {
  using Start = worker::v1::EpochStart;
  const Spoiler start(&EncodeEpochStart, &DecodeEpochStart, EpochStart{7, 9, 12, "a", "b", 5});
  start.Expect("EpochStart.epoch", [](Start* m) { m->set_epoch(0); });
  start.Expect("EpochStart.epoch", [](Start* m) { m->set_epoch(uint32_t{1} << 31); });
  start.Expect("first_plan", [](Start* m) { m->set_first_plan(0); });
  start.Expect("num_blocks", [](Start* m) { m->set_num_blocks(0); });
  start.Expect("connect_ns", [](Start* m) { m->set_connect_ns(-1); });
  start.Expect("next.size", [](Start* m) { m->set_next(std::string(4097, 'a')); });
  start.Expect("first.size", [](Start* m) { m->set_first(std::string(4097, 'a')); });

  using Beat = worker::v1::Beat;
  const Spoiler beat(&EncodeBeat, &DecodeBeat, StageBeat());
  beat.Expect("Beat.doing", [](Beat* m) { m->set_doing(static_cast<worker::v1::Beat::Doing>(4)); });
  beat.Expect("doing_ns", [](Beat* m) { m->set_doing_ns(-1); });
  beat.Expect("queued", [](Beat* m) { m->set_queued(-1); });
  beat.Expect("resident_bytes", [](Beat* m) { m->set_resident_bytes(-1); });
  beat.Expect("cpu_ns", [](Beat* m) { m->set_cpu_ns(-1); });
  beat.Expect("voids", [](Beat* m) { m->set_voids(-1); });
  beat.Expect("device_used_bytes", [](Beat* m) { m->set_device_used_bytes(-1); });
  beat.Expect("device_cached_bytes", [](Beat* m) { m->set_device_cached_bytes(-1); });
  beat.Expect("device_allocations", [](Beat* m) { m->set_device_allocations(-1); });

  using Hello = worker::v1::Hello;
  const Spoiler hello(&EncodeHello, &DecodeHello, WorkerHello());
  hello.Expect("pid", [](Hello* m) { m->set_pid(-1); });
  hello.Expect("beat_ns", [](Hello* m) { m->set_beat_ns(-1); });
  hello.Expect("version.size", [](Hello* m) { m->set_version(std::string(4097, 'a')); });
}

}  // namespace
}  // namespace penstock
