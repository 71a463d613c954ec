// The hop from the last kernel of a stage to the first of the next, by mail (core/tensor/
// device_mail.h), between two GPUs: a stage's layers are a kernel that takes a known time, the
// hosts launch ahead, and a round of both stages takes that time twice and two hops. Tokens come
// back; a round with tokens both ways tells their hop, and the rest of a round with rows is theirs.
//   cuda_mail_bench [FROM TO]      ordinals of GPUs, 0 1 if not said
// The rows are compared before anything is timed.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "cuda/cuda_allocator.h"
#include "cuda/device_mail.h"
#include "cuda/launch.h"
#include "cuda/peer_memory.h"
#include "cuda/stream.h"

namespace penstock::cuda {
namespace {

constexpr int64_t kSlots = 64;
constexpr int64_t kLayersNs = 200'000;
constexpr int kWarm = 50;
constexpr int kRounds = 1000;

__global__ void LayersKernel(int64_t ns) {
  LetNextBegin();
  WaitForInputs();
  uint64_t begin;
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < static_cast<uint64_t>(ns));
}

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) CheckFailed(__FILE__, __LINE__, Message(value.status()));
  return *std::move(value);
}

struct Stage {
  Stage(int gpu, int64_t row_bytes) : ordinal(gpu), bytes(row_bytes) {
    memory = Must(MakeCudaAllocator(gpu, {}));
    CUDA_CHECK(cudaSetDevice(gpu));
    stream = std::make_unique<CudaStream>();
    mail = Must(MakeDeviceMail(stream->get(), kSlots, 1000, *memory));
    rows = Must(Tensor::Make(DataType::kF32, {bytes / 4}, *memory));
    tokens = Must(Tensor::Make(DataType::kI32, {kSlots}, *memory));
    peers = Must(MakeCudaPeerMemory(gpu));
    rows_box = Must(peers->MakeMailbox(MailLayout::kHeaderBytes + 2 * bytes));
    tokens_box = Must(peers->MakeMailbox(MailLayout::TokenBytes(kSlots)));
    // A kernel that is loaded while another waits would wait for that.
    mail->Order({});
    mail->ReceiveRows(rows);
    mail->ReceiveTokens(tokens);
    Launch(stream->get(), {1, 1}, LayersKernel, kLayersNs);
    mail->SendRows(rows);
    mail->SendTokens(tokens);
    stream->Synchronize();
  }
  void Connect(Stage& other) {
    rows_there = Must(peers->Map(Must(other.rows_box->Export()), other.rows_box->bytes()));
    tokens_there = Must(peers->Map(Must(other.tokens_box->Export()), other.tokens_box->bytes()));
  }
  // The first stage waits for the tokens of the plan before.
  void Run(bool is_first, bool with_rows, uint64_t first, uint64_t last) {
    CUDA_CHECK(cudaSetDevice(ordinal));
    for (uint64_t plan = first; plan <= last; ++plan) {
      MailOrder order;
      order.epoch = 1;
      order.plan = plan;
      order.limit_ns = 5'000'000'000;
      order.rows_in_bytes = order.rows_out_bytes = bytes;
      order.mailbox_bytes = 2 * bytes;
      const bool takes_rows = with_rows && !is_first;
      const bool sends_rows = with_rows && is_first;
      if (takes_rows) order.rows_in = rows_box->address();
      if (sends_rows) order.rows_out = rows_there->address();
      if (sends_rows) order.rows_out_offset = static_cast<int64_t>(plan % 2) * bytes;
      if (!takes_rows) order.tokens_in = tokens_box->address();
      if (!takes_rows) order.tokens_from = is_first ? (plan > first ? plan - 1 : 0) : plan;
      if (!sends_rows) order.tokens_out = tokens_there->address();
      if (!sends_rows) order.sent = {{0, 7}};
      mail->Order(order);
      if (takes_rows) mail->ReceiveRows(rows);
      if (!takes_rows) mail->ReceiveTokens(tokens);
      Launch(stream->get(), {1, 1}, LayersKernel, kLayersNs);
      if (sends_rows) mail->SendRows(rows);
      if (!sends_rows) mail->SendTokens(tokens);
      stream->Synchronize();
      Must(mail->Take());
    }
  }

  const int ordinal;
  const int64_t bytes;
  std::unique_ptr<PoolAllocator> memory;
  std::unique_ptr<CudaStream> stream;
  std::unique_ptr<DeviceMail> mail;
  Tensor rows, tokens;
  std::unique_ptr<PeerMemory> peers;
  std::shared_ptr<Mailbox> rows_box, tokens_box;
  std::unique_ptr<PeerMailbox> rows_there, tokens_there;
};

// Both hops of a round, in microseconds.
double Rounds(Stage& a, Stage& b, bool with_rows, uint64_t* plan) {
  const auto run = [&](int count) {
    const uint64_t first = *plan + 1;
    *plan += static_cast<uint64_t>(count);
    std::thread other([&] { b.Run(false, with_rows, first, *plan); });
    const auto start = std::chrono::steady_clock::now();
    a.Run(true, with_rows, first, *plan);
    other.join();
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
        .count();
  };
  run(kWarm);
  return run(kRounds) / kRounds - 2e-3 * static_cast<double>(kLayersNs);
}

void Check(const Stage& a, const Stage& b) {
  std::vector<int32_t> sent(static_cast<size_t>(a.bytes / 4));
  std::vector<int32_t> got(sent.size());
  const auto bytes = static_cast<size_t>(a.bytes);
  CUDA_CHECK(cudaMemcpy(sent.data(), a.rows.raw(), bytes, cudaMemcpyDefault));
  CUDA_CHECK(cudaMemcpy(got.data(), b.rows.raw(), bytes, cudaMemcpyDefault));
  if (sent != got) CheckFailed(__FILE__, __LINE__, "the rows that came are not those that went");
}

void Run(int from, int to) {
  for (const int64_t bytes : {8 << 10, 16 << 10, 512 << 10, 1 << 20, 4 << 20, 32 << 20}) {
    Stage a(from, bytes);
    Stage b(to, bytes);
    CUDA_CHECK(cudaSetDevice(from));
    a.Connect(b);
    CUDA_CHECK(cudaSetDevice(to));
    b.Connect(a);
    std::vector<int32_t> pattern(static_cast<size_t>(bytes / 4));
    std::iota(pattern.begin(), pattern.end(), 1);
    CUDA_CHECK(cudaMemcpy(const_cast<void*>(a.rows.raw()), pattern.data(),
                          static_cast<size_t>(bytes), cudaMemcpyDefault));
    uint64_t plan = 0;
    const double tokens = Rounds(a, b, false, &plan) / 2;
    const double rows = Rounds(a, b, true, &plan) - tokens;
    Check(a, b);
    std::printf("%9lld bytes: %6.1f us a hop of rows, %5.1f us of tokens\n",
                static_cast<long long>(bytes), rows, tokens);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace penstock::cuda

int main(int argc, char** argv) {
  const bool told = argc == 3;
  penstock::cuda::Run(told ? std::atoi(argv[1]) : 0, told ? std::atoi(argv[2]) : 1);
  return 0;
}
