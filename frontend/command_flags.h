// The flags of the command line, a file for each group of subcommands: names, help texts with units
// and defaults, ranges. What the values mean is for the commands to say.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

#include "frontend/client_request.h"
#include "frontend/model_connection.h"
#include "frontend/stage_setup.h"

namespace penstock {

inline constexpr int kUsageError = 2;

// A subcommand and what it does once its flags are parsed; gives the exit code.
struct Command {
  CLI::App* app;
  std::function<int()> run;
};

Command AddServe(CLI::App* app);
Command AddGenerate(CLI::App* app);
Command AddChat(CLI::App* app);
Command AddTokenize(CLI::App* app);
Command AddInspect(CLI::App* app);
Command AddBench(CLI::App* app);
Command AddTune(CLI::App* app);
Command AddReplay(CLI::App* app);

// Flags of how a model runs in this process, in the units of people. The object must live until
// after the parsing.
class RuntimeFlags {
 public:
  void Add(CLI::App* app, RuntimeOptions* options);
  void AddChatTemplate(CLI::App* app, RuntimeOptions* options);
  // REQUIRES: parsed.
  void Apply(RuntimeOptions* options) const;

 private:
  int64_t kv_memory_mib_ = 0;
  std::string prefill_attention_ = "flash";
  int64_t padded_memory_mib_ = 2048;
  bool no_graphs_ = false;
};

// --gemm-table of what runs products by a table.
void AddGemmTable(CLI::App* app, std::string* file);

// Where the stages run.
void AddStageFlags(CLI::App* app, StageSetup* setup);

// Limits of the pipeline, and its flight recorder.
void AddPipelineFlags(CLI::App* app, RuntimeOptions* options);

// --precision, of which one value does not work so far.
class PrecisionFlag {
 public:
  void Add(CLI::App* app);
  // REQUIRES: parsed.
  void Apply(RuntimeOptions* options) const;
  // False, and a line on standard error, if what was asked for is not available yet.
  bool Check() const;
  const std::string& value() const { return precision_; }

 private:
  std::string precision_ = "f32";
};

// Flags of how tokens are chosen.
class SamplingFlags {
 public:
  void Add(CLI::App* app, ClientSampling* sampling);
  // Those that say something of an answer as data, of several answers, or of a prompt's text.
  void AddForScripts(CLI::App* app, ClientSampling* sampling);
  // False, and a line on standard error, for a value that cannot be read. REQUIRES: parsed.
  bool Apply(ClientSampling* sampling) const;

 private:
  std::vector<std::string> logit_bias_;
};

// --server or --model, one of them.
void AddModelAddress(CLI::App* app, ModelAddress* address);

// --timeout; the function tells the time limit once all is parsed.
std::function<absl::Duration()> AddTimeout(CLI::App* app, const std::string& what);

}  // namespace penstock
