#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>

#include "mamba2/app/commands.h"
#include "mamba2/app/generation_options.h"
#include "mamba2/app/interrupt.h"
#include "mamba2/app/options.h"
#include "mamba2/app/token_input.h"
#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/generate/generate.h"
#include "mamba2/pipeline/auto.h"

namespace mamba2::app {
namespace {

struct GenerateCommand {
  ModelOptions options;
  std::vector<std::string> prompts;
  std::string input_file, prompts_file;
  Json fields = Json::object();  // of GenerationConfig, as the command line gives them
  std::vector<std::string> bad_words;
  bool ignore_eos = false, no_stream = false;

  void run();

 private:
  void read_prompts(const Tokenizer* tokenizer, std::int64_t vocab_size);
  void check_fields() const;
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

void GenerateCommand::read_prompts(const Tokenizer* tokenizer, std::int64_t vocab_size) {
  if (!input_file.empty()) {
    const TokenInput input = read_token_input(input_file);
    check_token_ids(input, input_file, vocab_size);
    for (std::size_t i = 0; i < input.input_ids.size(); ++i) {
      ids_.push_back(input.tokens(i));
      texts_.push_back(tokenizer == nullptr ? "" : text_of(*tokenizer, ids_.back()));
    }
    return;
  }
  texts_ = prompts;
  if (!prompts_file.empty()) {
    std::istringstream lines(read_file(prompts_file));
    for (std::string line; std::getline(lines, line);) texts_.push_back(line);
    require(!texts_.empty(), "{}: is empty, expected a prompt a line", prompts_file);
  }
  if (texts_.empty()) texts_.push_back(read_stdin());
  for (const std::string& text : texts_) ids_.push_back(tokenizer->encode(text, SpecialTokens::include));
}

/// What the command line alone shows to be wrong, before a large model is loaded.
void GenerateCommand::check_fields() const {
  Json sampled = fields;
  if (!sampled.contains("do_sample")) sampled["do_sample"] = true;  // generation_config.json may say so
  try {
    GenerationConfig::from_json(sampled, "command line");
  } catch (const Error& e) {
    throw CLI::ValidationError(e.what());  // wrong usage
  }
}

GenerationConfig GenerateCommand::make_config(const Mamba2ForCausalLM& model, const Tokenizer* tokenizer) const {
  Json merged = generation_config_of(model).to_json();
  for (const auto& [field, value] : fields.items()) merged[field] = value;
  GenerationConfig config = GenerationConfig::from_json(merged, "command line");
  if (ignore_eos) config.eos_token_id.emplace();
  if (!bad_words.empty()) {
    require(tokenizer != nullptr, "--bad-words needs a tokenizer");
    if (!config.bad_words_ids) config.bad_words_ids.emplace();
    for (const std::string& word : bad_words) {
      config.bad_words_ids->push_back(tokenizer->encode(word, SpecialTokens::omit));
      require(!config.bad_words_ids->back().empty(), "--bad-words: '{}' has no tokens", printable(word, 60));
    }
  }
  if (!config.max_length && !config.max_new_tokens) config.max_new_tokens = default_new_tokens;
  return config;
}

void GenerateCommand::run() {
  check_fields();
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
  read_prompts(tokenizer.get(), model.config().vocab_size);
  const GenerationConfig config = make_config(model, tokenizer.get());

  const bool on_terminal = isatty(STDOUT_FILENO) != 0;
  const bool one_result = ids_.size() == 1 && config.num_return_sequences.value_or(1) == 1;
  const bool streams = one_result && !options.json && !no_stream && tokenizer != nullptr;
  auto decoders = [&](SpecialTokens special) {
    return tokenizer == nullptr ? MakeTextDecoder() : text_decoders(*tokenizer, special);
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

}  // namespace

void add_generate(CLI::App& app) {
  auto state = std::make_shared<GenerateCommand>();
  CLI::App* command = app.add_subcommand("generate", "Continue each prompt; no prompt: standard input");
  CLI::Option* texts = command->add_option("prompt", state->prompts, "Texts to continue");
  take_texts(*texts);
  command->option_defaults()->group("Prompts");
  CLI::Option* lines = command->add_option("--prompts", state->prompts_file, "A file with a prompt a line");
  command->add_option("--input", state->input_file, "A JSON file: {\"input_ids\": [[...]], \"attention_mask\"?}")
      ->excludes(texts)
      ->excludes(lines);
  add_generation_options(*command, state->fields);
  command->add_flag("--ignore-eos", state->ignore_eos, "No token ends the text")->group("Length");
  command->add_option("--bad-words", state->bad_words, "A text never to generate; may be given several times")
      ->allow_extra_args(false)
      ->group("Penalties");
  add_model_options(*command, state->options);
  command->add_flag("--no-stream", state->no_stream, "Print the text when it is complete")->group("Output");
  command->footer(
      "Every field of transformers' GenerationConfig has an option of its name. What a model's generation_config.json\n"
      "says goes before the defaults shown here.");
  command->callback([state] { state->run(); });
}

}  // namespace mamba2::app
