#include "frontend/tune_command.h"

#include <cstdio>
#include <utility>

#include "absl/strings/str_format.h"
#include "core/io/model_file.h"

namespace penstock {
namespace {

// What the file has of the same GPU and library. Errors: those of a file that is no table, before
// anything is written over it.
absl::Status AddTo(const std::string& path, GemmTable* table) {
  const absl::StatusOr<GemmTable> old = ReadGemmTable(path);
  if (absl::IsNotFound(old.status())) return absl::OkStatus();
  if (!old.ok()) {
    return absl::Status(old.status().code(),
                        absl::StrCat(Message(old.status()),
                                     ": remove the file, or name another with --gemm-table FILE"));
  }
  if (old->gpu != table->gpu || old->library_version != table->library_version) {
    return absl::OkStatus();
  }
  GemmTable both = *old;
  for (const auto& [shape, tuned] : table->products) both.products[shape] = tuned;
  *table = std::move(both);
  return absl::OkStatus();
}

absl::Status Tune(const TuneOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(const ModelFile file, OpenModel(options.model));
  PENSTOCK_ASSIGN_OR_RETURN(
      GemmTable table,
      TuneDevice(file.config, options.tuning,
                 [](const GemmShape& shape, const TunedGemm& product, int64_t done, int64_t) {
                   if (done == 1) {
                     absl::PrintF("%-28s %7s %14s %10s %7s\n", "product, out x in", "tokens",
                                  "heuristic us", "tuned us", "gain");
                   }
                   absl::PrintF("%-28s %7d %14.2f %10.2f %6.1f%%\n",
                                absl::StrCat(shape.out_features, " x ", shape.in_features, " ",
                                             Abs(Name(shape.type)),
                                             shape.out_type == shape.type ? "" : " to f32"),
                                shape.tokens, product.heuristic_microseconds, product.microseconds,
                                100 * (1 - product.microseconds / product.heuristic_microseconds));
                   fflush(stdout);
                 }));
  const std::string path =
      options.gemm_table.empty() ? DefaultGemmTablePath(table.gpu) : options.gemm_table;
  if (path.empty()) {
    return absl::InvalidArgumentError(
        "there is no cache folder to write to: name a file with --gemm-table FILE");
  }
  const size_t measured = table.products.size();
  PENSTOCK_RETURN_IF_ERROR(AddTo(path, &table));
  PENSTOCK_RETURN_IF_ERROR(WriteGemmTable(path, table));
  absl::PrintF("%d products measured on %s with cuBLASLt %d; %s has %d, hash %016x\n", measured,
               table.gpu, table.library_version, path, table.products.size(), GemmTableHash(table));
  return absl::OkStatus();
}

}  // namespace

int RunTune(const TuneOptions& options) {
  const absl::Status done = Tune(options);
  if (done.ok()) return 0;
  absl::FPrintF(stderr, "%s: %s\n", absl::StatusCodeToString(done.code()), Message(done));
  return 1;
}

}  // namespace penstock
