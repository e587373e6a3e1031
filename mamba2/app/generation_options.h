#pragma once

#include <string>
#include <vector>

#include "mamba2/base/json.h"

namespace CLI {
class App;
}

namespace mamba2::app {

/// New tokens where neither the command line nor generation_config.json says how many.
constexpr std::int64_t default_new_tokens = 128;

/// Adds an option for each field of GenerationConfig; what they are given goes into fields, an object as in
/// generation_config.json, which must live as long as the command.
void add_generation_options(CLI::App& command, Json& fields);

/// Gives a lone --early-stopping the value true, so that it doesn't take the prompt after it for its value.
std::vector<std::string> complete_early_stopping(std::vector<std::string> arguments);

}  // namespace mamba2::app
