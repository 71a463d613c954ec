// `penstock tokenize`: JSON strings in, one a line; JSON arrays of ids out.
#pragma once

#include <iosfwd>
#include <string>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

struct TokenizeOptions {
  std::string model;
  bool special = false;  // names of control tokens in a text become them
};

// The program's exit code; says on standard error what went wrong.
int RunTokenize(const TokenizeOptions& options);

// Errors: INVALID_ARGUMENT that names the line.
absl::Status TokenizeLines(const Tokenizer& tokenizer, bool special, std::istream& in,
                           std::ostream& out);

}  // namespace penstock
