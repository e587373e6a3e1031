#pragma once

namespace CLI {
class App;
}

/// The commands of the `mamba2` program: each adds itself to the command line and runs as its callback.
namespace mamba2::app {

void add_generate(CLI::App& app);
void add_forward(CLI::App& app);
void add_classify(CLI::App& app);
void add_perplexity(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_detokenize(CLI::App& app);
void add_convert(CLI::App& app);
void add_info(CLI::App& app);
void add_bench(CLI::App& app);
void add_doctor(CLI::App& app);

}  // namespace mamba2::app
