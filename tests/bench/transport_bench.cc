// The hop of a transfer: from the task that sends, on one stage's stream, to the end of the task
// that receives, on the other's. Bytes are checked before anything is timed.
//   transport_bench [--benchmark_filter=...]
// Rows are sent one at a time, each once the one before has arrived, as by a pipeline with an idle
// receiver. The counters are microseconds; `send_us` is what the sender's stream pays.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <vector>

#include "core/base/check.h"
#include "tests/support/grpc_endpoint.h"
#include "tests/support/local_endpoint.h"
#include "tests/support/peer_endpoint.h"
#include "tests/support/transport_ends.h"

namespace penstock::testing {
namespace {

using Clock = std::chrono::steady_clock;

double Micros(Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

double Percentile(std::vector<double>& values, double share) {
  const auto nth = values.begin() + static_cast<int64_t>(share * double(values.size() - 1));
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

void Hop(benchmark::State& state, const TransportKind& kind) {
  const MakeEndpoint make = kind.make_world();
  const auto a = make({});
  const auto b = make({});
  Sender sender;
  Receiver receiver;
  receiver.lane = b->transport().Open(LaneKind::kRows, 1);
  auto connected = a->transport().Connect(b->transport().address(), LaneKind::kRows, 1, kPatience);
  PENSTOCK_CHECK(connected.ok());
  sender.lane = *std::move(connected);

  const Shape shape{state.range(0) / 4};
  Tensor rows = Make(DataType::kF32, shape);
  const Tensor got = Poisoned(shape);
  uint64_t plan = 0;
  const auto hop = [&](std::vector<double>* hops, std::vector<double>* sends) {
    ++plan;
    std::promise<void> done;
    Clock::time_point begin, taken, end;
    receiver.Receive(got, plan);
    receiver.stream.Enqueue([&] {
      end = Clock::now();
      done.set_value();
    });
    sender.stream.Enqueue([&] { begin = Clock::now(); });
    sender.lane->Send(sender.stream, rows, plan, kPatience);
    sender.stream.Enqueue([&] { taken = Clock::now(); });
    done.get_future().wait();
    sender.stream.Fence();
    PENSTOCK_CHECK(receiver.stream.status().ok());
    if (hops != nullptr) hops->push_back(Micros(end - begin));
    if (sends != nullptr) sends->push_back(Micros(taken - begin));
  };
  for (int i = 0; i < 20; ++i) {
    FillPattern(rows, plan + 1);
    hop(nullptr, nullptr);
    PENSTOCK_CHECK(HoldsPattern(got, plan));
  }
  std::vector<double> hops, sends;
  for (auto _ : state) {
    hop(&hops, &sends);
    state.SetIterationTime(hops.back() * 1e-6);
  }
  state.counters["p50_us"] = Percentile(hops, 0.5);
  state.counters["p99_us"] = Percentile(hops, 0.99);
  state.counters["send_us"] = Percentile(sends, 0.5);
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

void Register(const TransportKind& kind) {
  benchmark::RegisterBenchmark(("Hop/" + kind.name).c_str(),
                               [kind](benchmark::State& state) { Hop(state, kind); })
      ->Arg(8 << 10)
      ->Arg(16 * 576 * 4)
      ->Arg(512 << 10)
      ->Arg(4 << 20)
      ->UseManualTime()
      ->Iterations(2000);
}

}  // namespace
}  // namespace penstock::testing

int main(int argc, char** argv) {
  using namespace penstock::testing;  // NOLINT(google-build-using-namespace): a program's main
  benchmark::Initialize(&argc, argv);
  for (const TransportKind& kind : {LocalKind(), UnixKind(), TcpKind(), PeerKind("Peer", "cpu")}) {
    Register(kind);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
