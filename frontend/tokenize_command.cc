#include "frontend/tokenize_command.h"

#include <iostream>
#include <utility>

#include "core/io/model_file.h"
#include "frontend/json_text.h"

namespace penstock {
namespace {

absl::Status Tokenize(const TokenizeOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(ModelTokenizer file, OpenTokenizer(options.model));
  PENSTOCK_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer,
                            MakeTokenizer(std::move(file.spec)));
  return TokenizeLines(*tokenizer, options.special, std::cin, std::cout);
}

}  // namespace

absl::Status TokenizeLines(const Tokenizer& tokenizer, bool special, std::istream& in,
                           std::ostream& out) {
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    const absl::StatusOr<std::string> text = ParseJsonString(line);
    absl::StatusOr<std::vector<int32_t>> ids =
        text.ok() ? tokenizer.Encode(*text, special) : text.status();
    if (!ids.ok()) return Annotate(ids.status(), absl::StrCat("line ", number));
    // Flushed, so that a program at the other end of two pipes may wait for each answer.
    out << IdsToJson(*ids) << std::endl;
  }
  if (!out) return absl::UnavailableError("cannot write to standard output");
  return absl::OkStatus();
}

int RunTokenize(const TokenizeOptions& options) {
  const absl::Status status = Tokenize(options);
  if (status.ok()) return 0;
  std::cerr << "penstock tokenize: " << Message(status) << "\n";
  return 1;
}

}  // namespace penstock
