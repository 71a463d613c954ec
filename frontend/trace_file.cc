#include "frontend/trace_file.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/base/check.h"

namespace penstock {
namespace {

using Json = nlohmann::json;

// More tokens or seconds are a mistake, and the arithmetic stays far from its borders.
constexpr int64_t kMost = int64_t{1} << 30;

bool ReadInteger(const Json& line, const char* key, int64_t least, int64_t* value) {
  const auto found = line.find(key);
  if (found == line.end() || !found->is_number_integer()) return false;
  if (found->is_number_unsigned() && found->get<uint64_t>() > static_cast<uint64_t>(kMost)) {
    return false;
  }
  *value = found->get<int64_t>();
  return *value >= least && *value <= kMost;
}

bool ReadLine(std::string_view text, TraceRequest* request) {
  const Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!line.is_object()) return false;
  const auto arrival = line.find("arrival");
  if (arrival == line.end() || !arrival->is_number()) return false;
  request->arrival = arrival->get<double>();
  return request->arrival >= 0 && request->arrival <= static_cast<double>(kMost) &&
         ReadInteger(line, "prompt", 1, &request->prompt) &&
         ReadInteger(line, "output", 1, &request->output) &&
         ReadInteger(line, "seed", 0, &request->seed);
}

}  // namespace

absl::StatusOr<std::vector<TraceRequest>> ParseTrace(std::string_view text,
                                                     const std::string& name) {
  std::vector<TraceRequest> trace;
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    if (!ReadLine(line, &trace.emplace_back())) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ", line ", number, ": a line has to be like {\"arrival\": 0.5, \"prompt\": 211, ",
          "\"output\": 97, \"seed\": 5}, with at least one token each; tests/bench/trace.py makes ",
          "such a file"));
    }
  }
  if (trace.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": there is no request in it: make one with tests/bench/trace.py"));
  }
  std::stable_sort(trace.begin(), trace.end(), [](const TraceRequest& a, const TraceRequest& b) {
    return a.arrival < b.arrival;
  });
  return trace;
}

absl::StatusOr<std::vector<TraceRequest>> ReadTrace(const std::string& path) {
  using Bytes = std::istreambuf_iterator<char>;
  if (path == "-") return ParseTrace(std::string(Bytes(std::cin), Bytes()), "standard input");
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(
        absl::StrCat("cannot read ", path, ": make a trace with tests/bench/trace.py > ", path));
  }
  return ParseTrace(std::string(Bytes(file), Bytes()), path);
}

std::vector<int32_t> TracePromptIds(int64_t seed, int64_t count, int64_t vocabulary) {
  PENSTOCK_CHECK_GT(vocabulary, 10);
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<int32_t>(10 + (seed * 7919 + i * 104729) % (vocabulary - 10)));
  }
  return ids;
}

int64_t ClipTrace(const TraceLimits& limits, std::vector<TraceRequest>* trace) {
  PENSTOCK_CHECK_GT(limits.context, 1);
  int64_t clipped = 0;
  for (TraceRequest& request : *trace) {
    const TraceRequest before = request;
    if (limits.max_prompt > 0) request.prompt = std::min(request.prompt, limits.max_prompt);
    if (limits.max_output > 0) request.output = std::min(request.output, limits.max_output);
    request.output = std::min(request.output, limits.context - 1);
    request.prompt = std::min(request.prompt, limits.context - request.output);
    if (request.prompt != before.prompt || request.output != before.output) ++clipped;
  }
  return clipped;
}

}  // namespace penstock
