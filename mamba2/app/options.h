#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/base/json.h"
#include "mamba2/model/modeling_mamba2.h"
#include "mamba2/tokenizer/tokenizer.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace mamba2::app {

/// What every command with a model takes.
struct ModelOptions {
  std::string model;  ///< empty: the one that ships with the program
  std::string tokenizer;
  LoadOptions load;
  bool json = false;

  std::string model_path() const { return model.empty() ? default_model() : model; }
  /// models/classics-5m beside the installed binary, under the install prefix, or in the source tree; Error where none
  /// is.
  static std::string default_model();
};

/// Adds the options to a command; options must live as long as the command.
void add_model_options(CLI::App& command, ModelOptions& options);

/// Makes a positional take any number of texts, each as it is: by default CLI11 cuts one in brackets at its commas.
void take_texts(CLI::Option& positional);

/// The tokenizer that --tokenizer names, else the model's own.
std::unique_ptr<const Tokenizer> load_tokenizer(const ModelOptions& options, const std::string& model_folder);

/// Text on stdout, at once.  Error where it can't be written.
void print(std::string_view text);
/// One line of JSON on stdout; numbers that JSON has no word for become null, invalid UTF-8 becomes U+FFFD.
void print_json(const Json& json);
/// Standard input to its end; on a terminal without the line's end that sent it.
std::string read_stdin();

}  // namespace mamba2::app
