#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "mamba2/app/commands.h"
#include "mamba2/app/options.h"
#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/pipeline/auto.h"

/// `tokenize` and `detokenize`: text to ids and back, without loading any weights.
namespace mamba2::app {
namespace {

struct TokenizeCommand {
  ModelOptions options;
  std::vector<std::string> arguments;
  std::string file;
  bool jsonl = false, add_special_tokens = false;

  SpecialTokens special() const { return add_special_tokens ? SpecialTokens::include : SpecialTokens::omit; }
  std::unique_ptr<const Tokenizer> tokenizer() const;
  std::string input() const { return file.empty() ? read_stdin() : read_file(file); }
};

std::unique_ptr<const Tokenizer> TokenizeCommand::tokenizer() const {
  return AutoTokenizer::from_pretrained(options.tokenizer.empty() ? options.model_path() : options.tokenizer);
}

/// Calls handle(line as JSON, where it stands) for each line that is not empty.
template <class Handle>
void for_each_line(const std::string& text, const std::string& source, Handle&& handle) {
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.empty()) continue;
    const std::string where = fmt::format("{}: line {}", source, number);
    handle(parse_json(line, where), where);
  }
}

std::vector<std::int32_t> read_ids(const Json& json, const std::string& where) {
  require(json.is_array(), "{}: ids is no list of integers", where);
  std::vector<std::int32_t> ids;
  for (const Json& value : json) {
    const bool fits = value.is_number_integer() &&
                      (!value.is_number_unsigned() || value.get<std::uint64_t>() <= 0x7FFFFFFFU) &&
                      value.get<std::int64_t>() >= 0;
    require(fits, "{}: ids holds {}, expected integers from 0", where, printable(value.dump(), 40));
    ids.push_back(value.get<std::int32_t>());
  }
  return ids;
}

void tokenize(const TokenizeCommand& command) {
  const auto tokenizer = command.tokenizer();
  const std::string source = command.file.empty() ? "standard input" : command.file;
  if (command.jsonl) {
    for_each_line(command.input(), source, [&](const Json& json, const std::string& where) {
      require(json.is_object() && json.contains("text") && json["text"].is_string(),
              "{}: has no text, expected {{\"text\"}}", where);
      const std::vector<std::int32_t> ids = tokenizer->encode(json["text"].get<std::string>(), command.special());
      print_json({{"ids", ids}, {"decoded", tokenizer->decode(ids, SpecialTokens::include)}});
    });
    return;
  }
  std::vector<std::string> texts = command.arguments;
  if (texts.empty()) texts.push_back(command.input());
  for (const std::string& text : texts) {
    const std::vector<std::int32_t> ids = tokenizer->encode(text, command.special());
    if (command.options.json)
      print_json({{"ids", ids}, {"decoded", tokenizer->decode(ids, SpecialTokens::include)}});
    else
      fmt::print("{}\n", fmt::join(ids, " "));
  }
}

std::vector<std::int32_t> parse_ids(const std::string& text) {
  std::vector<std::int32_t> ids;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const bool digits = word.find_first_not_of("0123456789") == std::string::npos && word.size() <= 10;
    require(digits && std::stoll(word) <= std::numeric_limits<std::int32_t>::max(), "'{}' is no token id",
            printable(word, 40));
    ids.push_back(static_cast<std::int32_t>(std::stoll(word)));
  }
  return ids;
}

void detokenize(const TokenizeCommand& command) {
  const auto tokenizer = command.tokenizer();
  const std::string source = command.file.empty() ? "standard input" : command.file;
  if (command.jsonl) {
    for_each_line(command.input(), source, [&](const Json& json, const std::string& where) {
      require(json.is_object() && json.contains("ids"), "{}: has no ids, expected {{\"ids\"}}", where);
      print_json({{"text", tokenizer->decode(read_ids(json["ids"], where), SpecialTokens::include)}});
    });
    return;
  }
  std::string text;
  for (const std::string& argument : command.arguments) text += argument + " ";
  const std::string decoded =
      tokenizer->decode(parse_ids(command.arguments.empty() ? command.input() : text), SpecialTokens::include);
  if (command.options.json)
    print_json({{"text", decoded}});
  else
    fmt::print("{}\n", decoded);
}

std::shared_ptr<TokenizeCommand> add(CLI::App* command, const char* argument) {
  auto state = std::make_shared<TokenizeCommand>();
  CLI::Option* arguments =
      command->add_option(argument, state->arguments, "What to convert; none: --file or standard input");
  take_texts(*arguments);
  command->option_defaults()->group("Input and output");
  command->add_option("--file", state->file, "A file to read")->excludes(arguments);
  command->add_flag("--jsonl", state->jsonl, "A JSON object a line, in and out")->excludes(arguments);
  command->add_flag("--add-special-tokens", state->add_special_tokens,
                    "Put the tokenizer's special tokens around the text");
  add_model_options(*command, state->options);
  return state;
}

}  // namespace

void add_tokenize(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tokenize", "Text to token ids");
  auto state = add(command, "text");
  command->callback([state] { tokenize(*state); });
}

void add_detokenize(CLI::App& app) {
  CLI::App* command = app.add_subcommand("detokenize", "Token ids to text");
  auto state = add(command, "id");
  command->callback([state] { detokenize(*state); });
}

}  // namespace mamba2::app
