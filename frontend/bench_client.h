// The client of `penstock bench serve`: sends a trace's requests when they are due, many at once,
// and takes the time of every token.
// Thread rule: one thread calls; gRPC's threads read.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "frontend/bench_report.h"
#include "frontend/trace_file.h"
#include "penstock/v1/inference.pb.h"

namespace penstock {

struct BenchRunOptions {
  double rate_scale = 1;    // requests come so many times as fast as the trace says
  int64_t concurrency = 0;  // under way at once at most; those that are due wait. 0: no limit
  int64_t seed = 0;         // added to each request's
  int64_t vocabulary = 0;   // of the model
  absl::Duration timeout = absl::InfiniteDuration();  // of a request
};

// A greedy request for exactly so many tokens, whatever they are.
v1::GenerateRequest BenchRequest(const TraceRequest& request, const BenchRunOptions& options);

// Tells now and then how many requests have ended and how many tokens have come.
using BenchProgress = std::function<void(int64_t done, int64_t tokens)>;

// Returns once all have ended, in the trace's order. Requests take turns on the channels.
// REQUIRES: a channel.
std::vector<BenchCall> RunBench(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                                const std::vector<TraceRequest>& trace,
                                const BenchRunOptions& options, const BenchProgress& progress);

}  // namespace penstock
