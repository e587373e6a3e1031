// Loads a model and its tokenizer and continues a prompt; the C++ form of the example on Hugging Face's Mamba2 page.
#include <mamba2/mamba2.h>

#include <iostream>

int main(int argc, char** argv) try {
  const std::string path = argc > 1 ? argv[1] : "models/classics-5m";
  const auto tokenizer = mamba2::AutoTokenizer::from_pretrained(path);
  mamba2::Mamba2ForCausalLM model = mamba2::AutoModelForCausalLM::from_pretrained(path, {.dtype = "auto"});

  const std::vector<std::int32_t> prompt = tokenizer->encode("Hey how are you doing?", mamba2::SpecialTokens::include);
  mamba2::GenerationConfig config = mamba2::generation_config_of(model);
  config.max_new_tokens = 20;
  const mamba2::GenerateOutput output = mamba2::generate(model, {&prompt, 1}, config);
  std::cout << tokenizer->decode(output.results.front().ids, mamba2::SpecialTokens::omit) << "\n";
} catch (const mamba2::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
