#include "mamba2/generate/generation_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

GenerationConfig parse(std::string_view text) {
  return GenerationConfig::from_json(parse_json(text, "g.json"), "g.json");
}

std::string error_of(std::string_view text) {
  try {
    parse(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(GenerationConfig, ReadsEveryFieldItWrites) {
  const char* text =
      R"({"max_length":30,"max_new_tokens":5,"min_length":1,"min_new_tokens":2,"max_time":1.5,"stop_strings":["a","b"],)"
      R"("do_sample":true,"num_beams":4,"num_return_sequences":2,"early_stopping":"never","length_penalty":0.5,)"
      R"("seed":18446744073709551615,"temperature":0.7,"top_k":10,"top_p":0.9,"top_h":0.4,"min_p":0.1,"typical_p":0.8,)"
      R"("epsilon_cutoff":0.01,"eta_cutoff":0.02,"repetition_penalty":1.2,"no_repeat_ngram_size":3,)"
      R"("bad_words_ids":[[1],[2,3]],"sequence_bias":[[[4,5],-1.5]],"forced_bos_token_id":6,"forced_eos_token_id":[7],)"
      R"("exponential_decay_length_penalty":[8,1.1],"suppress_tokens":[9],"begin_suppress_tokens":[10,11],)"
      R"("remove_invalid_values":true,"renormalize_logits":false,"bos_token_id":12,"pad_token_id":13,)"
      R"("eos_token_id":[14,15]})";
  EXPECT_EQ(parse(text).to_json().dump(), parse_json(text, "").dump());
}

TEST(GenerationConfig, TakesNullAsNotSetAndANumberAsAListOfOne) {
  const GenerationConfig config = parse(R"({"max_length": null, "eos_token_id": 3, "stop_strings": "end"})");
  EXPECT_FALSE(config.max_length.has_value());
  EXPECT_EQ(config.eos_token_id, (std::vector<std::int32_t>{3}));
  EXPECT_EQ(config.stop_strings, (std::vector<std::string>{"end"}));
}

TEST(GenerationConfig, PassesOverUnknownFields) {
  EXPECT_EQ(error_of(R"({"transformers_version": "5.17.0", "of_tomorrow": {"a": [1]}})"), "no error");
}

TEST(GenerationConfig, NamesAFieldOfTheWrongType) {
  EXPECT_EQ(error_of(R"({"top_k": "many"})"), "g.json: 'top_k' is \"many\", expected an integer");
  EXPECT_EQ(error_of(R"({"top_k": 2.5})"), "g.json: 'top_k' is 2.5, expected an integer");
  EXPECT_EQ(error_of(R"({"do_sample": 1})"), "g.json: 'do_sample' is 1, expected true or false");
  EXPECT_EQ(error_of(R"({"temperature": [1]})"), "g.json: 'temperature' is [1], expected a number");
  EXPECT_EQ(error_of(R"({"early_stopping": "soon"})"),
            "g.json: 'early_stopping' is \"soon\", expected true, false or \"never\"");
  EXPECT_EQ(error_of(R"({"eos_token_id": [1, 3000000000]})"),
            "g.json: 'eos_token_id' is 3000000000, expected a token id");
  EXPECT_EQ(error_of(R"({"bad_words_ids": [3]})"), "g.json: 'bad_words_ids' is 3, expected a list of token ids");
  EXPECT_EQ(error_of(R"({"sequence_bias": {"3": 1.0}})"),
            "g.json: 'sequence_bias' is {\"3\":1.0}, expected a list of [[token ids], bias]");
  EXPECT_EQ(error_of("[]"), "g.json: expected an object at the top, found array");
}

TEST(GenerationConfig, NamesAFieldOutOfRange) {
  EXPECT_EQ(error_of(R"({"top_p": 1.5})"), "g.json: 'top_p' is 1.5, expected a number from 0 to 1");
  EXPECT_EQ(error_of(R"({"max_new_tokens": 0})"), "g.json: 'max_new_tokens' is 0, expected an integer >= 1");
  EXPECT_EQ(error_of(R"({"num_beams": -1})"), "g.json: 'num_beams' is -1, expected an integer from 1 to 65536");
  EXPECT_EQ(error_of(R"({"repetition_penalty": 0})"), "g.json: 'repetition_penalty' is 0, expected a number > 0");
  EXPECT_EQ(error_of(R"({"length_penalty": Infinity})"), "g.json: 'length_penalty' is inf, expected a finite number");
  EXPECT_EQ(error_of(R"({"top_k": -3})"), "g.json: 'top_k' is -3, expected an integer >= 0");
  EXPECT_EQ(error_of(R"({"temperature": 0, "do_sample": true})"),
            "g.json: 'temperature' is 0, expected a number > 0; for greedy search set do_sample to false");
  EXPECT_EQ(error_of(R"({"num_return_sequences": 3})"),
            "g.json: 'num_return_sequences' is 3, but greedy search has one result: set do_sample or num_beams");
  EXPECT_EQ(error_of(R"({"num_return_sequences": 3, "num_beams": 2})"),
            "g.json: 'num_return_sequences' is 3, expected at most num_beams = 2");
  EXPECT_EQ(error_of(R"({"forced_eos_token_id": 2, "suppress_tokens": [1, 2]})"),
            "g.json: every 'forced_eos_token_id' is among 'suppress_tokens': no token would be left");
}

TEST(GenerationConfig, RefusesWhatWouldChangeTheTextAndIsNotSupported) {
  EXPECT_EQ(error_of(R"({"num_beam_groups": 2})"), "g.json: 'num_beam_groups' is 2, which is not supported");
  EXPECT_EQ(error_of(R"({"guidance_scale": 1.5})"), "g.json: 'guidance_scale' is 1.5, which is not supported");
  EXPECT_EQ(error_of(R"({"penalty_alpha": 0.6})"), "g.json: 'penalty_alpha' is 0.6, which is not supported");
}

TEST(GenerationConfig, TakesUnsupportedFieldsThatAreOff) {
  EXPECT_EQ(error_of(R"({"num_beam_groups": 1, "guidance_scale": null, "diversity_penalty": 0.0, "penalty_alpha": 0,
                         "encoder_repetition_penalty": 1.0, "watermarking_config": null})"),
            "no error");
}

TEST(GenerationConfig, KeepsWhatIsSetAndFillsTheRest) {
  GenerationConfig config;
  config.top_k = 7;
  config.eos_token_id = std::vector<std::int32_t>();  // explicitly none
  GenerationConfig file;
  file.top_k = 9;
  file.temperature = 0.5;
  file.eos_token_id = {{1}};
  config.fill_from(file);
  config.fill_from(GenerationConfig::defaults());
  EXPECT_EQ(config.top_k, 7);
  EXPECT_EQ(config.temperature, 0.5);
  EXPECT_TRUE(config.eos_token_id->empty());
  EXPECT_EQ(config.num_beams, 1);
}

TEST(MaxLength, CountsNewTokensFromThePrompt) {
  GenerationConfig config;
  EXPECT_EQ(max_length_for(config, 5), 25);
  config.max_length = 8;
  EXPECT_EQ(max_length_for(config, 5), 8);
  EXPECT_THROW(max_length_for(config, 8), Error);
  config.max_new_tokens = 3;
  EXPECT_EQ(max_length_for(config, 8), 11);
}

TEST(MaxLength, DoesNotOverflow) {
  GenerationConfig config;
  config.max_new_tokens = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(max_length_for(config, 10), std::numeric_limits<std::int64_t>::max());
}

TEST(GenerationConfig, OfAFolderWithoutTheFileSetsNothing) {
  EXPECT_TRUE(GenerationConfig::from_folder(MAMBA2_SOURCE_DIR "/tests/generate").to_json().empty());
}

TEST(GenerationConfig, OfTheShippedModelHasItsTokens) {
  const GenerationConfig config = GenerationConfig::from_folder(MAMBA2_SOURCE_DIR "/models/classics-5m");
  EXPECT_EQ(config.eos_token_id, (std::vector<std::int32_t>{0}));
  EXPECT_EQ(config.pad_token_id, 1);
}

}  // namespace
}  // namespace mamba2
