// Mail between two streams of one GPU, whose mailbox is plain memory of it: kernels see addresses
// only. How it goes between processes: tests/worker/gpu_stage_test.cc, tests/e2e/recovery_test.py.
#include "cuda/device_mail.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <thread>

#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "cuda/pinned_memory.h"
#include "cuda/stream.h"
#include "tests/support/gpu.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr int64_t kHidden = 64;
constexpr int64_t kMaxRows = 3000;
constexpr int64_t kRing = kMaxRows * kHidden * 4;
constexpr int64_t kSlots = 8;
constexpr int64_t kVocab = 100;
constexpr int64_t kLimitNs = 20'000'000'000;

int64_t NowNs() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

class DeviceMailTest : public ::testing::Test {
 protected:
  struct End {
    CudaStream stream;
    std::unique_ptr<DeviceMail> mail;
    Tensor rows;    // [kMaxRows, kHidden] f32
    Tensor tokens;  // [kSlots] i32
  };

  void SetUp() override {
    if (!GpuCall::Available()) GTEST_SKIP();
    auto memory = MakeCudaAllocator(0);
    ASSERT_TRUE(IsOk(memory));
    memory_ = *std::move(memory);
    mailbox_ = Make(DataType::kU8, {MailLayout::kHeaderBytes + kRing});
    token_box_ = Make(DataType::kU8, {MailLayout::TokenBytes(kSlots)});
    for (const Tensor& box : {mailbox_, token_box_}) {
      CUDA_CHECK(cudaMemset(Raw(box), 0, static_cast<size_t>(box.bytes())));
    }
    for (End* end : {&first_, &last_}) {
      auto mail = cuda::MakeDeviceMail(end->stream.get(), kSlots, kVocab, *memory_);
      ASSERT_TRUE(IsOk(mail));
      end->mail = *std::move(mail);
      end->rows = Make(DataType::kF32, {kMaxRows, kHidden});
      end->tokens = Make(DataType::kI32, {kSlots});
      Fill(end->rows, -1);
      // A kernel that is loaded while another waits would wait for that.
      end->mail->Order({});
      end->mail->ReceiveRows(end->rows);
      end->mail->ReceiveTokens(end->tokens);
      end->mail->SendRows(end->rows);
      end->mail->SendTokens(end->tokens);
      end->stream.Synchronize();
    }
  }

  Tensor Make(DataType type, const Shape& shape) {
    auto tensor = Tensor::Make(type, shape, *memory_);
    EXPECT_TRUE(IsOk(tensor));
    return *std::move(tensor);
  }
  static void* Raw(const Tensor& tensor) { return const_cast<void*>(tensor.raw()); }
  static void Fill(const Tensor& rows, int32_t first) {
    std::vector<int32_t> values(static_cast<size_t>(rows.num_elements()));
    std::iota(values.begin(), values.end(), first);
    CUDA_CHECK(cudaMemcpy(Raw(rows), values.data(), values.size() * 4, cudaMemcpyHostToDevice));
  }
  static std::vector<int32_t> Values(const Tensor& tensor) {
    std::vector<int32_t> values(static_cast<size_t>(tensor.num_elements()));
    CUDA_CHECK(cudaMemcpy(values.data(), tensor.raw(), values.size() * 4, cudaMemcpyDeviceToHost));
    return values;
  }

  MailOrder RowsOrder(uint64_t plan, int64_t rows) const {
    MailOrder order;
    order.epoch = 3;
    order.plan = plan;
    order.limit_ns = kLimitNs;
    order.rows_in_bytes = order.rows_out_bytes = rows * kHidden * 4;
    order.mailbox_bytes = kRing;
    return order;
  }
  // Enqueued on the receiving end.
  void Receive(uint64_t plan, int64_t rows, int64_t limit_ns = kLimitNs) {
    MailOrder order = RowsOrder(plan, rows);
    order.rows_in = mailbox_.raw();
    order.limit_ns = limit_ns;
    last_.mail->Order(order);
    last_.mail->ReceiveRows(last_.rows);
    last_.mail->SendTokens(last_.tokens);  // to nobody: a step ends with a send
  }
  absl::StatusOr<MailTimes> Received() {
    last_.stream.Synchronize();
    return last_.mail->Take();
  }
  void Send(uint64_t plan, int64_t rows, int64_t offset) {
    MailOrder order = RowsOrder(plan, rows);
    order.rows_out = Raw(mailbox_);
    order.rows_out_offset = offset;
    first_.mail->Order(order);
    first_.mail->SendRows(first_.rows);
    first_.stream.Synchronize();
    EXPECT_TRUE(IsOk(first_.mail->Take()));
  }
  void ExpectRows(int64_t rows, int32_t first) {
    const std::vector<int32_t> got = Values(last_.rows);
    for (int64_t i = 0; i < rows * kHidden; ++i) {
      ASSERT_EQ(got[static_cast<size_t>(i)], first + static_cast<int32_t>(i)) << i;
    }
    if (rows < kMaxRows) {
      EXPECT_NE(got[static_cast<size_t>(rows * kHidden)],
                first + static_cast<int32_t>(rows * kHidden));
    }
  }

  std::unique_ptr<PoolAllocator> memory_;
  Tensor mailbox_;
  Tensor token_box_;
  End first_;  // sends rows, takes tokens
  End last_;
};

TEST_F(DeviceMailTest, RowsComeWhetherTheyAreAwaitedOrThereBefore) {
  uint64_t plan = 60;  // the flags' ring is passed
  for (const int64_t rows : {1, 2, 64, 1000, 3000}) {
    const int64_t offset = rows == 3000 ? 0 : kRing - 1024 * 256;
    for (const bool is_awaited : {true, false}) {
      SCOPED_TRACE(std::to_string(rows) + (is_awaited ? " awaited" : " there"));
      const auto first = static_cast<int32_t>(plan * 1000);
      Fill(first_.rows, first);
      Fill(last_.rows, -1);
      if (is_awaited) {
        Receive(++plan, rows);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        EXPECT_TRUE(last_.mail->waits());
      } else {
        ++plan;
      }
      Send(plan, rows, offset);
      if (!is_awaited) Receive(plan, rows);
      const auto times = Received();
      ASSERT_TRUE(IsOk(times));
      EXPECT_FALSE(last_.mail->waits());
      if (is_awaited) {
        EXPECT_GT(times->waited_ns, 4'000'000);
      } else {
        EXPECT_LT(times->waited_ns, 4'000'000);
      }
      ExpectRows(rows, first);
    }
  }
}

// A captured step does what its order says when it is launched.
TEST_F(DeviceMailTest, AGraphBindsNoPlan) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t step = nullptr;
  CUDA_CHECK(cudaStreamBeginCapture(last_.stream.get(), cudaStreamCaptureModeThreadLocal));
  last_.mail->ReceiveRows(last_.rows);
  last_.mail->SendTokens(last_.tokens);
  CUDA_CHECK(cudaStreamEndCapture(last_.stream.get(), &graph));
  CUDA_CHECK(cudaGraphInstantiate(&step, graph, 0));
  for (uint64_t plan = 1; plan < 200; ++plan) {
    const auto rows = static_cast<int64_t>(plan % 7 + 1);
    Fill(first_.rows, static_cast<int32_t>(plan));
    MailOrder order = RowsOrder(plan, rows);
    order.rows_in = mailbox_.raw();
    last_.mail->Order(order);
    CUDA_CHECK(cudaGraphLaunch(step, last_.stream.get()));
    Send(plan, rows, static_cast<int64_t>(plan % 5) * 4096);
    ASSERT_TRUE(IsOk(Received()));
    ASSERT_NO_FATAL_FAILURE(ExpectRows(rows, static_cast<int32_t>(plan)));
  }
  CUDA_CHECK(cudaGraphExecDestroy(step));
  CUDA_CHECK(cudaGraphDestroy(graph));
}

TEST_F(DeviceMailTest, AWaitEndsInTimeAndMakesTheStepVoid) {
  Receive(1, 4, /*limit_ns=*/50'000'000);
  const int64_t begin = NowNs();
  EXPECT_TRUE(Fails(Received().status(), absl::StatusCode::kDeadlineExceeded, {"50 ms", "hangs"}));
  EXPECT_GT(NowNs() - begin, 40'000'000);
  EXPECT_LT(NowNs() - begin, 5'000'000'000);
  // It sends nothing until the next epoch, whatever comes.
  const auto send_tokens = [&](uint64_t plan) {
    MailOrder order = RowsOrder(plan, 4);
    order.tokens_out = Raw(token_box_);
    last_.mail->Order(order);
    last_.mail->SendTokens(last_.tokens);
    last_.stream.Synchronize();
    uint64_t flag = 0;
    CUDA_CHECK(cudaMemcpy(&flag, token_box_.raw(), 8, cudaMemcpyDeviceToHost));
    return flag;
  };
  EXPECT_EQ(send_tokens(2), 0u);
  last_.mail->Reset();
  EXPECT_EQ(send_tokens(3), uint64_t{3} << 32 | 3);
}

TEST_F(DeviceMailTest, CancellingEndsWhatWaitsAndWhatWill) {
  Receive(1, 4);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  last_.mail->Cancel();
  EXPECT_TRUE(Fails(Received().status(), absl::StatusCode::kCancelled, {}));
  Receive(2, 4);
  EXPECT_TRUE(Fails(Received().status(), absl::StatusCode::kCancelled, {}));
  // What has come is taken all the same.
  Fill(first_.rows, 7);
  Send(3, 4, 0);
  Receive(3, 4);
  EXPECT_TRUE(IsOk(Received()));
  ExpectRows(4, 7);
  last_.mail->Reset();
  Receive(4, 4);
  Send(4, 4, 1024);
  EXPECT_TRUE(IsOk(Received()));
}

TEST_F(DeviceMailTest, ATransferOfAnotherSizeOrPlaceIsRefused) {
  Send(1, 5, 0);
  Receive(1, 4);
  EXPECT_TRUE(Fails(Received().status(), absl::StatusCode::kInternal, {"1024 bytes of plan 1"}));
  last_.mail->Reset();
  // The flag is all that says so: nothing may be read there.
  const int64_t flag[3] = {int64_t{3} << 32 | 2, kRing - 16, 4 * kHidden * 4};
  auto* const place = static_cast<uint8_t*>(Raw(mailbox_)) + 2 * MailLayout::kFlagBytes;
  CUDA_CHECK(cudaMemcpy(place, flag, sizeof(flag), cudaMemcpyHostToDevice));
  Receive(2, 4);
  EXPECT_TRUE(Fails(Received().status(), absl::StatusCode::kInternal, {"another plan"}));
}

TEST_F(DeviceMailTest, TokensComeToThoseWhoseTheyAre) {
  const Tensor ids = Make(DataType::kI32, {kSlots});
  const auto receive = [&](uint64_t plan, uint64_t from, std::vector<MailOrder::FedToken> fed) {
    Fill(ids, 50);
    MailOrder order = RowsOrder(plan, 1);
    order.tokens_in = token_box_.raw();
    order.tokens_from = from;
    order.fed = std::move(fed);
    first_.mail->Order(order);
    first_.mail->ReceiveTokens(ids);
    first_.mail->SendRows(first_.rows);  // to nobody
  };
  const auto place = [](uint64_t plan, int64_t slot) {
    return static_cast<int32_t>(MailLayout::TokenPlace(plan, slot, kSlots));
  };
  // Nothing to wait for.
  receive(1, 0, {});
  first_.stream.Synchronize();
  ASSERT_TRUE(IsOk(first_.mail->Take()));
  EXPECT_EQ(Values(ids), (std::vector<int32_t>{50, 51, 52, 53, 54, 55, 56, 57}));

  // Slot 6 and 2 are sampled; the tokens are 90 and 91, one that is no token of the vocabulary, -1.
  CUDA_CHECK(cudaMemcpy(Raw(last_.tokens), std::vector<int32_t>{90, 91, 100, -1}.data(), 16,
                        cudaMemcpyHostToDevice));
  const uint32_t tag = TokenTag(3, 11, 25);
  receive(70, 69,
          {{place(69, 2), 0, tag},
           {place(69, 6), 3, tag},
           {place(69, 6), 4, TokenTag(3, 11, 26)},
           {place(69, 6), 5, TokenTag(3, 12, 25)},
           {place(69, 1), 6, tag},
           {place(69, 0), 7, tag}});
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_TRUE(first_.mail->waits());
  MailOrder order = RowsOrder(69, 1);
  order.tokens_out = Raw(token_box_);
  order.sent = {{place(69, 6), tag}, {place(69, 2), tag}, {place(69, 1), tag}, {place(69, 0), tag}};
  last_.mail->Order(order);
  last_.mail->SendTokens(last_.tokens);
  first_.stream.Synchronize();
  ASSERT_TRUE(IsOk(first_.mail->Take()));
  EXPECT_EQ(Values(ids), (std::vector<int32_t>{91, 51, 52, 90, 0, 0, 0, 0}));

  // Those of an earlier plan are there once a later one has sent.
  receive(72, 68, {{place(69, 2), 1, tag}});
  first_.stream.Synchronize();
  ASSERT_TRUE(IsOk(first_.mail->Take()));
  EXPECT_EQ(Values(ids)[1], 91);
}

}  // namespace
}  // namespace penstock
