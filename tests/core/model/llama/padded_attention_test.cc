#include "core/model/llama/padded_attention.h"

#include "core/io/model_file.h"
#include "core/kernels/cpu_ops.h"
#include "hwy/highway.h"
#include "tests/support/model_runner.h"
#include "tests/support/paged_batch.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

ModelConfig ConfigOf(const HeadLayout& heads, int64_t context) {
  ModelConfig config;
  config.num_heads = heads.num_heads;
  config.num_kv_heads = heads.num_kv_heads;
  config.head_dim = heads.head_dim;
  config.context_length = context;
  return config;
}

// Runs the attention alone over a paged batch. RoPE turns nothing: cosines 1, sines 0.
class Alone {
 public:
  Alone(const HeadLayout& heads, const std::vector<int32_t>& lens,
        const std::vector<int32_t>& feeds)
      : paged(heads, lens, feeds, 17) {
    for (size_t r = 0; r < lens.size(); ++r) {
      extents_.push_back({feeds[r], lens[r]});
      for (int64_t p = lens[r] - feeds[r]; p < lens[r]; ++p) {
        paged.PoisonPosition(static_cast<int64_t>(r), p);  // the layer has to append it
        slots_.push_back(paged.Slot(static_cast<int64_t>(r), p));
      }
    }
    const auto tokens = static_cast<int64_t>(slots_.size());
    table_ = Make(DataType::kF32, {tokens, heads.head_dim});
    for (int64_t i = 0; i < table_.num_elements(); ++i) {
      const bool cosine = i % heads.head_dim < heads.head_dim / 2;
      static_cast<float*>(table_.raw())[i] = cosine ? 1.0f : 0.0f;
    }
  }

  // With room for `max_tokens` and `context`, however the rows have to be grouped.
  void Run(int64_t max_tokens, int64_t context, int64_t window = kNoWindow) {
    const AttentionArgs args = paged.args();
    ModelLimits limits;
    limits.max_tokens = max_tokens;
    ModelConfig config = ConfigOf(args.heads, context);
    config.sliding_window = window;
    const auto attention = PaddedAttention::Make(config, limits, Allocator());
    ASSERT_TRUE(IsOk(attention));
    StepBatch batch;
    batch.kv_slots = FromVector(slots_);
    batch.row_starts = args.row_starts;
    batch.context_lens = args.context_lens;
    batch.block_tables = args.block_tables;
    batch.extents = extents_;
    batch.num_prefill_rows = args.context_lens.dim(0);
    batch.num_prefill_tokens = args.qkv.dim(0);
    CpuOps ops(Pool());
    const Tensor none;
    attention->Run(batch, {args.qkv, none, none, none, 1e-5f, table_, args.heads}, args.kv,
                   args.out, ops);
  }

  PagedBatch paged;

 private:
  Tensor table_;
  std::vector<RowExtent> extents_;
  std::vector<int64_t> slots_;
};

// Whole prompts and chunks after cached parts; multi-head, grouped-query, multi-query.
TEST(PaddedAttention, MatchesFloat64) {
  for (const HeadLayout& heads :
       {HeadLayout{9, 3, 64}, HeadLayout{4, 4, 96}, HeadLayout{8, 1, 128}, HeadLayout{2, 1, 20}}) {
    Alone batch(heads, {2, 64, 65, 130, 200}, {2, 64, 65, 30, 2});
    const std::vector<double> reference = batch.paged.Float64();
    ASSERT_NO_FATAL_FAILURE(batch.Run(163, 1000));
    EXPECT_LE(RelativeError(batch.paged.out(), reference), kFloatTolerance)
        << "head dim " << heads.head_dim;
  }
}

TEST(PaddedAttention, WindowsMatchFloat64) {
  for (const int64_t window : {1, 16, 64, 100, 1000}) {
    Alone batch({4, 2, 32}, {2, 64, 65, 130, 200}, {2, 64, 65, 30, 2});
    ASSERT_NO_FATAL_FAILURE(batch.Run(163, 1000, window));
    EXPECT_LE(RelativeError(batch.paged.out(), batch.paged.Float64(window)), kFloatTolerance)
        << window;
  }
}

TEST(PaddedAttention, GroupsAndOtherRowsChangeNoBit) {
  const HeadLayout heads{6, 2, 32};
  const std::vector<int32_t> lens = {70, 9, 9, 130, 40};
  const std::vector<int32_t> feeds = {70, 9, 2, 30, 40};
  Alone together(heads, lens, feeds);
  ASSERT_NO_FATAL_FAILURE(together.Run(350, 700));  // all rows at once
  Alone apart(heads, lens, feeds);
  ASSERT_NO_FATAL_FAILURE(apart.Run(70, 130));  // alone, but for the two short ones
  EXPECT_EQ(ToVector(apart.paged.out()), ToVector(together.paged.out()));
}

TEST(PaddedAttention, NanStaysInItsRow) {
  const HeadLayout heads{4, 2, 16};
  Alone batch(heads, {5, 70, 6}, {5, 3, 6});
  const AttentionArgs args = batch.paged.args();
  static_cast<float*>(Tensor(args.qkv).raw())[6 * heads.width() + 1] = std::nanf("");  // row 1
  ASSERT_NO_FATAL_FAILURE(batch.Run(300, 300));
  const std::vector<float> out = ToVector(args.out);
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t token = i / static_cast<size_t>(heads.q_size());
    if (token < 5 || token >= 8) {
      EXPECT_FALSE(std::isnan(out[i])) << i;
    }
  }
  EXPECT_TRUE(std::isnan(out[6 * static_cast<size_t>(heads.q_size())]));
}

TEST(PaddedAttention, AWorkspaceBeyondItsSettingIsRefused) {
  ModelLimits limits;
  limits.max_tokens = 100;
  const ModelConfig config = ConfigOf({8, 2, 64}, 1000);
  const int64_t bytes = PaddedAttention::WorkspaceBytes(config, limits);
  EXPECT_EQ(bytes, 4 * (8 * 100 * 1000 + 512 * (100 + 2 * 1000) + 100) + 100 * 1000);
  HostAllocator allocator;
  limits.padded_memory_bytes = bytes - 1;
  EXPECT_TRUE(Fails(PaddedAttention::Make(config, limits, allocator),
                    absl::StatusCode::kInvalidArgument,
                    {"--padded-memory-mib", "--max-step-tokens", "--prefill-attention=flash"}));
  EXPECT_EQ(allocator.bytes_in_use(), 0);
  limits.padded_memory_bytes = bytes;
  const auto made = PaddedAttention::Make(config, limits, allocator);
  ASSERT_TRUE(IsOk(made));
  EXPECT_EQ(allocator.bytes_in_use(), bytes);

  limits.max_tokens = 2000;  // more than a row can feed
  EXPECT_EQ(PaddedAttention::WorkspaceBytes(config, limits),
            4 * (8 * 1000 * 1000 + 512 * 3 * 1000 + 1000) + 1000 * 1000);
  limits.max_tokens = int64_t{1} << 40;
  EXPECT_EQ(PaddedAttention::WorkspaceBytes(ConfigOf({4096, 1, 512}, int64_t{1} << 26), limits),
            INT64_MAX);
}

// The tiny model of a file; sequence s has slot s.
class Runner {
 public:
  Runner(const std::string& path, PrefillAttention prefill)
      : ops_(Pool()),
        file_(Opened(path)),
        runner_(file_.config, *file_.weights, Limits(prefill), ops_) {}

  struct Feed {
    int32_t sequence;
    int64_t position;
    int64_t count;
  };
  // Feeds each of these tokens; the logits after the last token of each, in order of the batch.
  std::vector<float> Step(const std::vector<Feed>& feeds) {
    StepPlan plan;
    for (const Feed& feed : feeds) {
      PlanRow row;
      row.slot = feed.sequence;
      row.position = feed.position;
      row.sample = true;
      for (int64_t p = feed.position; p < feed.position + feed.count; ++p) {
        row.tokens.push_back(static_cast<int32_t>((p * p + 31 * feed.sequence) % kTinyVocab));
      }
      row.blocks = BlocksOfSlot(feed.sequence, feed.position + feed.count, kTinyContext);
      plan.rows.push_back(row);
    }
    return ToVector(runner_.Logits(runner_.Forward(plan).sample_tokens));
  }

  int64_t bytes_in_use() const { return runner_.allocator.bytes_in_use(); }

 private:
  static constexpr int64_t kTokens = 96;
  static constexpr int64_t kRows = 6;

  static ModelFile Opened(const std::string& path) {
    absl::StatusOr<ModelFile> file = OpenModel(path);
    PENSTOCK_CHECK(file.ok());
    return *std::move(file);
  }
  static ModelLimits Limits(PrefillAttention prefill) {
    ModelLimits limits;
    limits.max_tokens = kTokens;
    limits.max_samples = kRows;
    limits.prefill_attention = prefill;
    return limits;
  }

  CpuOps ops_;
  ModelFile file_;
  ModelRunner runner_;
};

// Prompts, chunks after cached prefixes and decodes in one batch; some steps take several groups.
const std::vector<std::vector<Runner::Feed>> kSteps = {
    {{0, 0, 40}, {1, 0, 17}},
    {{0, 40, 10}, {1, 17, 1}, {2, 0, 64}},
    {{0, 50, 2}, {1, 18, 30}, {2, 64, 1}, {3, 0, 1}, {4, 0, 5}, {5, 0, 5}},
    {{3, 1, 96}},
    {{0, 52, 20}, {1, 48, 20}, {2, 65, 20}, {3, 97, 20}, {4, 5, 1}},
    {{3, 117, 96}},
};

class PaddedModelTest : public ::testing::TestWithParam<uint32_t> {
 protected:
  ~PaddedModelTest() override { hwy::SetSupportedTargetsForTest(0); }
};

TEST_P(PaddedModelTest, LogitsEqualFlash) {
  const TempFile file(TinyModel(GetParam()).Build());
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    Runner flash(file.path(), PrefillAttention::kFlash);
    Runner padded(file.path(), PrefillAttention::kPadded);
    double worst = 0;
    for (const std::vector<Runner::Feed>& feeds : kSteps) {
      const std::vector<float> expected = flash.Step(feeds);
      const std::vector<float> got = padded.Step(feeds);
      ASSERT_EQ(got.size(), feeds.size() * kTinyVocab);
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], expected[i], 1e-4) << hwy::TargetName(target);
        worst = std::max(worst, std::abs(double{got[i]} - expected[i]));
      }
    }
    EXPECT_GT(worst, 0.0) << "both ran the same kernels";
  }
}

INSTANTIATE_TEST_SUITE_P(KvHeads, PaddedModelTest, ::testing::Values(4, 2, 1));

TEST(PaddedModel, BatchesAndChunksOfTwoOrMoreChangeNoBit) {
  const TempFile file(TinyModel().Build());
  Runner one(file.path(), PrefillAttention::kPadded);
  const std::vector<float> whole = one.Step({{2, 0, 90}});
  for (int64_t chunk : {2, 7, 45, 88}) {
    Runner other(file.path(), PrefillAttention::kPadded);
    std::vector<float> logits;
    for (int64_t begin = 0; begin < 90;) {
      int64_t count = std::min(chunk, 90 - begin);
      if (90 - begin - count == 1) ++count;
      const int64_t beside = std::min<int64_t>(96 - count, 6);
      logits = other.Step({{2, begin, count}, {4, 0, beside}});
      begin += count;
    }
    logits.resize(static_cast<size_t>(kTinyVocab));
    EXPECT_EQ(logits, whole) << chunk;
  }
}

TEST(PaddedModel, TakesItsWorkspaceWhileLoadingAndOnlyIfChosen) {
  const TempFile file(TinyModel().Build());
  Runner flash(file.path(), PrefillAttention::kFlash);
  Runner padded(file.path(), PrefillAttention::kPadded);
  const int64_t loaded = padded.bytes_in_use();
  ModelLimits limits;
  limits.max_tokens = 96;
  EXPECT_EQ(loaded - flash.bytes_in_use(),
            PaddedAttention::WorkspaceBytes(ConfigOf({4, 2, 16}, kTinyContext), limits));
  for (const std::vector<Runner::Feed>& feeds : kSteps) {
    padded.Step(feeds);
    EXPECT_EQ(padded.bytes_in_use(), loaded);
  }
}

}  // namespace
}  // namespace penstock
