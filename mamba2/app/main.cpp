#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>

#include "mamba2/app/commands.h"
#include "mamba2/app/interrupt.h"
#include "mamba2/base/build_info.h"
#include "mamba2/base/error.h"

namespace {

/// Exit codes of the command line's contract.
enum ExitCode : int { done = 0, at_fault = 1, wrong_usage = 2, interrupted = 130 };

int report(const char* what) {
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", what);
  return at_fault;
}

int run(int argc, char** argv) {
  CLI::App app{"mamba2: run Mamba-2 language models", "mamba2"};
  app.set_version_flag("--version", mamba2::build_version);
  app.require_subcommand(1);
  using namespace mamba2::app;
  for (const auto add : {add_generate, add_forward, add_classify, add_perplexity, add_tokenize, add_detokenize,
                         add_convert, add_info, add_bench, add_doctor})
    add(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? done : wrong_usage;
  }
  return std::fflush(stdout) == 0 ? done : report("stdout can't be written");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const mamba2::app::Interrupted&) {
    std::fflush(stdout);
    return interrupted;
  } catch (const std::bad_alloc&) {
    return report("out of memory");
  } catch (const std::exception& e) {
    return report(e.what());
  }
}
