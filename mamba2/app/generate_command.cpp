#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "mamba2/app/commands.h"
#include "mamba2/app/interrupt.h"
#include "mamba2/app/options.h"
#include "mamba2/app/token_input.h"
#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/generate/generate.h"
#include "mamba2/pipeline/auto.h"

namespace mamba2::app {
namespace {

/// New tokens where neither the command line nor generation_config.json says how many.
constexpr std::int64_t default_new_tokens = 128;

struct GenerateCommand {
  ModelOptions options;
  std::vector<std::string> prompts;
  std::string input_file, prompts_file;
  Json fields = Json::object();  // of GenerationConfig, as the command line gives them
  std::vector<std::string> bad_words;
  bool ignore_eos = false, no_stream = false;

  void run();

 private:
  void read_prompts(const Tokenizer* tokenizer);
  GenerationConfig make_config(const Mamba2ForCausalLM& model, const Tokenizer* tokenizer) const;

  std::vector<std::string> texts_;
  std::vector<std::vector<std::int32_t>> ids_;
};

double rate(std::int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
}

Json timings_json(const GenerationTimings& timings, double load_s) {
  return {{"load_s", load_s},
          {"prefill_s", timings.prefill_s},
          {"decode_s", timings.decode_s},
          {"prefill_tokens_per_s", rate(timings.prefill_tokens, timings.prefill_s)},
          {"decode_tokens_per_s", rate(timings.decode_tokens, timings.decode_s)}};
}

void GenerateCommand::read_prompts(const Tokenizer* tokenizer) {
  if (!input_file.empty()) {
    const TokenInput input = read_token_input(input_file);
    for (std::size_t i = 0; i < input.input_ids.size(); ++i) {
      ids_.push_back(input.tokens(i));
      texts_.push_back(tokenizer == nullptr ? "" : tokenizer->decode(ids_.back(), SpecialTokens::omit));
    }
    return;
  }
  texts_ = prompts;
  if (!prompts_file.empty()) {
    std::istringstream lines(read_file(prompts_file));
    for (std::string line; std::getline(lines, line);) texts_.push_back(line);
  }
  if (texts_.empty() && prompts_file.empty()) texts_.push_back(read_stdin());
  for (const std::string& text : texts_) ids_.push_back(tokenizer->encode(text, SpecialTokens::include));
}

GenerationConfig GenerateCommand::make_config(const Mamba2ForCausalLM& model, const Tokenizer* tokenizer) const {
  GenerationConfig config = GenerationConfig::from_json(fields, "command line");
  if (ignore_eos) config.eos_token_id.emplace();
  if (!bad_words.empty()) {
    require(tokenizer != nullptr, "--bad-words needs a tokenizer");
    if (!config.bad_words_ids) config.bad_words_ids.emplace();
    for (const std::string& word : bad_words)
      config.bad_words_ids->push_back(tokenizer->encode(word, SpecialTokens::omit));
  }
  config.fill_from(generation_config_of(model));
  if (!config.max_length && !config.max_new_tokens) config.max_new_tokens = default_new_tokens;
  return config;
}

void GenerateCommand::run() {
  const auto start = std::chrono::steady_clock::now();
  Mamba2ForCausalLM model = Mamba2ForCausalLM::from_pretrained(options.model_path(), options.load);
  std::unique_ptr<const Tokenizer> tokenizer;
  try {
    tokenizer = load_tokenizer(options, model.model().path());
  } catch (const Error&) {
    // ids in and ids out need none
    if (input_file.empty() || !options.tokenizer.empty()) throw;
  }
  const double load_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  read_prompts(tokenizer.get());
  const GenerationConfig config = make_config(model, tokenizer.get());

  const bool on_terminal = isatty(STDOUT_FILENO) != 0;
  const bool one_result = ids_.size() == 1 && config.num_return_sequences.value_or(1) == 1;
  const bool streams = one_result && !options.json && !no_stream && tokenizer != nullptr;
  auto decoders = [&](SpecialTokens special) {
    return tokenizer == nullptr ? MakeTextDecoder() : text_decoders(*tokenizer, special);
  };
  auto print = [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  TextStreamer streamer(decoders(SpecialTokens::omit), print);
  GenerateOptions generate_options;
  generate_options.cancel = &catch_interrupts();
  generate_options.make_text_decoder = decoders(SpecialTokens::include);
  if (streams) {
    generate_options.streamer = &streamer;
    if (on_terminal) print(texts_.front());
  }
  const GenerateOutput output = generate(model, ids_, config, generate_options);

  for (const GenerationResult& result : output.results) {
    const std::size_t prompt_length = result.ids.size() - result.new_ids.size();
    const std::string text = tokenizer == nullptr ? "" : continuation(*tokenizer, result.ids, prompt_length);
    if (options.json) {
      Json json = {{"prompt", texts_[result.prompt]},
                   {"prompt_ids", ids_[result.prompt]},
                   {"new_ids", result.new_ids},
                   {"text", text},
                   {"finish_reason", name(result.finish_reason)}};
      if (result.score) json["score"] = *result.score;
      json["timings"] = timings_json(output.timings, load_s);
      print_json(json);
    } else if (streams) {
      print("\n");
    } else if (tokenizer == nullptr) {
      print(fmt::format("{}\n", Json(result.new_ids).dump()));
    } else {
      print((on_terminal || !one_result ? texts_[result.prompt] : "") + text + "\n");
    }
  }
  if (!options.json)
    std::fprintf(stderr, "load %.2f s, prefill %lld tokens at %.1f tokens/s, decode %lld tokens at %.1f tokens/s\n",
                 load_s, static_cast<long long>(output.timings.prefill_tokens),
                 rate(output.timings.prefill_tokens, output.timings.prefill_s),
                 static_cast<long long>(output.timings.decode_tokens),
                 rate(output.timings.decode_tokens, output.timings.decode_s));
  check_interrupt();
}

std::string dashed(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return "--" + name;
}

Json parse_value(const std::string& option, const std::string& text) {
  try {
    return parse_json(text, option);
  } catch (const Error& e) {
    throw CLI::ValidationError(e.what());
  }
}

/// Fields whose values are JSON: numbers, and for some lists.
constexpr const char* json_fields[] = {"max_new_tokens",
                                       "max_length",
                                       "min_new_tokens",
                                       "min_length",
                                       "max_time",
                                       "num_beams",
                                       "num_return_sequences",
                                       "length_penalty",
                                       "seed",
                                       "temperature",
                                       "top_k",
                                       "top_p",
                                       "top_h",
                                       "min_p",
                                       "typical_p",
                                       "epsilon_cutoff",
                                       "eta_cutoff",
                                       "repetition_penalty",
                                       "no_repeat_ngram_size",
                                       "bad_words_ids",
                                       "sequence_bias",
                                       "forced_bos_token_id",
                                       "bos_token_id",
                                       "pad_token_id"};
/// Fields that are a list of token ids: 1,2,3 or [1, 2, 3].
constexpr const char* id_list_fields[] = {"suppress_tokens", "begin_suppress_tokens", "eos_token_id",
                                          "forced_eos_token_id"};
constexpr const char* flag_fields[] = {"do_sample", "remove_invalid_values", "renormalize_logits"};

void add_generation_fields(CLI::App& command, Json& fields) {
  for (const std::string name : json_fields)
    command.add_option_function<std::string>(
        dashed(name), [&fields, name](const std::string& text) { fields[name] = parse_value(dashed(name), text); },
        "As transformers' " + name);
  for (const std::string name : id_list_fields)
    command.add_option_function<std::string>(
        dashed(name),
        [&fields, name](const std::string& text) {
          fields[name] = parse_value(dashed(name), text.starts_with('[') ? text : "[" + text + "]");
        },
        "As transformers' " + name + ", separated by commas");
  for (const std::string name : flag_fields)
    command.add_flag_function(
        dashed(name), [&fields, name](std::int64_t count) { fields[name] = count > 0; }, "As transformers' " + name);
  command
      .add_option_function<std::vector<std::string>>(
          "--early-stopping",
          [&fields](const std::vector<std::string>& value) {
            const std::string text = value.empty() || value[0].empty() ? "true" : value[0];
            fields["early_stopping"] = text == "never" ? Json(text) : Json(text == "true");
          },
          "true, false or never")
      ->expected(0, 1)
      ->check(CLI::IsMember({"true", "false", "never", ""}));
  command
      .add_option_function<std::vector<double>>(
          "--exponential-decay-length-penalty",
          [&fields](const std::vector<double>& value) {
            fields["exponential_decay_length_penalty"] = {static_cast<std::int64_t>(value[0]), value[1]};
          },
          "START FACTOR, as transformers'")
      ->expected(2);
  command
      .add_option_function<std::vector<std::string>>(
          "--stop", [&fields](const std::vector<std::string>& strings) { fields["stop_strings"] = strings; },
          "End when this text was generated; may be given several times")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

}  // namespace

void add_generate(CLI::App& app) {
  auto state = std::make_shared<GenerateCommand>();
  CLI::App* command = app.add_subcommand("generate", "Continue each prompt; no prompt: standard input");
  command->add_option("prompt", state->prompts, "Texts to continue");
  command->add_option("--input", state->input_file, "A JSON file with input_ids");
  command->add_option("--prompts", state->prompts_file, "A file with a prompt a line");
  command->add_option("--bad-words", state->bad_words, "Texts never to generate");
  command->add_flag("--ignore-eos", state->ignore_eos, "No token ends the text");
  command->add_flag("--no-stream", state->no_stream, "Print the text when it is complete");
  add_generation_fields(*command, state->fields);
  add_model_options(*command, state->options);
  command->callback([state] { state->run(); });
}

}  // namespace mamba2::app
