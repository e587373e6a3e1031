#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mamba2/app/commands.h"
#include "mamba2/app/generation_options.h"
#include "mamba2/app/interrupt.h"
#include "mamba2/base/build_info.h"
#include "mamba2/base/error.h"

namespace {

/// Exit codes of the command line's contract.
enum ExitCode : int { done = 0, at_fault = 1, wrong_usage = 2, interrupted = 130 };

int report(std::string_view what, ExitCode code = at_fault) {
  constexpr std::size_t longest = 4096;  // bytes
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", mamba2::printable(what, longest).c_str());
  return code;
}

/// Prints what --help and --version ask for, else what is wrong with the arguments.
int report(const CLI::App& app, const CLI::ParseError& e) {
  if (e.get_exit_code() == 0) {
    app.exit(e);
    return std::cout.flush() ? done : report("standard output can't be written");
  }
  const std::vector<std::string> unknown = app.remaining();
  if (app.get_subcommands().empty() && !unknown.empty())
    return report(fmt::format("'{}' is no command; see mamba2 --help", unknown.front()), wrong_usage);
  std::string command = "mamba2";
  for (const CLI::App* used : app.get_subcommands()) command += " " + used->get_name();
  return report(fmt::format("{}; see {} --help", e.what(), command), wrong_usage);
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
    std::vector<std::string> arguments = complete_early_stopping({argv + 1, argv + argc});
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& e) {
    return report(app, e);
  }
  const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  return written ? done : report("standard output can't be written");
}

}  // namespace

int main(int argc, char** argv) {
  mamba2::app::end_at_interrupt();
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
