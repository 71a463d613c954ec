// Fuzz target: any text as a trace of requests. What is read is in the order of arrival and within
// its borders, and stays so when it is cut to a model's limits.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/check.h"
#include "frontend/trace_file.h"
#include "tests/fuzz/check_message.h"
#include "tests/fuzz/mutator.h"

namespace penstock {
namespace {

constexpr int64_t kContext = 64;
constexpr const char* kSeed =
    "{\"arrival\":0.5,\"prompt\":3,\"output\":40,\"seed\":5}\n"
    "{\"arrival\":0,\"prompt\":70,\"output\":1,\"seed\":0}\n";

void Read(std::string_view text) {
  PENSTOCK_CHECK(!ReadTrace("/nowhere/trace").ok());
  auto trace = ParseTrace(text, "the trace");
  if (!trace.ok()) return fuzz::CheckMessage(trace.status(), "the trace");
  PENSTOCK_CHECK(!trace->empty());
  PENSTOCK_CHECK(std::is_sorted(
      trace->begin(), trace->end(),
      [](const TraceRequest& a, const TraceRequest& b) { return a.arrival < b.arrival; }));
  ClipTrace({.max_prompt = 50, .max_output = 0, .context = kContext}, &*trace);
  for (const TraceRequest& request : *trace) {
    PENSTOCK_CHECK(request.arrival >= 0);
    PENSTOCK_CHECK(request.prompt > 0 && request.prompt <= 50 && request.output > 0);
    PENSTOCK_CHECK_LE(request.prompt + request.output, kContext);
    for (const int32_t id : TracePromptIds(request.seed, request.prompt, 100)) {
      PENSTOCK_CHECK(id >= 10 && id < 100);
    }
  }
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  penstock::Read({reinterpret_cast<const char*>(data), size});
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using penstock::fuzz::Format;
  static const auto* const format =
      new Format{"{",
                 {penstock::kSeed},
                 {"arrival", "prompt", "output", "seed", "1e300", "-1", "18446744073709551615"},
                 penstock::fuzz::MutateJson};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
