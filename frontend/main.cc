// The command line of `penstock`: its subcommands; their flags and what they do are elsewhere.
#include <cstdlib>

#include "frontend/command_flags.h"

namespace penstock {
namespace {

int Run(int argc, char** argv) {
  CLI::App app("Penstock serves Llama-family language models over gRPC.");
  app.set_version_flag("--version", "penstock " PENSTOCK_VERSION);
  app.require_subcommand(1);
  app.footer("Each subcommand explains itself: penstock serve --help");
  const Command commands[] = {AddServe(&app),   AddGenerate(&app), AddChat(&app), AddTokenize(&app),
                              AddInspect(&app), AddBench(&app),    AddTune(&app), AddReplay(&app)};
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsageError;
  }
  for (const Command& command : commands) {
    if (app.got_subcommand(command.app)) return command.run();
  }
  return kUsageError;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  // gRPC prints errors of its own beside the ones that we report; whoever wants them sets this.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  return penstock::Run(argc, argv);
}
