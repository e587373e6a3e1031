// One call from text to text, as transformers' pipeline().
#include <mamba2/mamba2.h>

#include <iostream>

int main(int argc, char** argv) try {
  const auto generator = mamba2::pipeline("text-generation", argc > 1 ? argv[1] : "models/classics-5m");
  mamba2::GenerationConfig config;
  config.max_new_tokens = 30;
  for (const mamba2::PipelineOutput& output : (*generator)("It was a dark night, and the", config))
    std::cout << output.generated_text << "\n";
} catch (const mamba2::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
