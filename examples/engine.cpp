// Continues several prompts at once.  They begin alike: the state after what they share is computed once and kept.
#include <mamba2/mamba2.h>

#include <iostream>

namespace {

void finish(mamba2::Engine& engine) {
  while (engine.step()) {
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string path = argc > 1 ? argv[1] : "models/classics-5m";
  const auto tokenizer = mamba2::AutoTokenizer::from_pretrained(path);
  mamba2::Mamba2ForCausalLM model = mamba2::AutoModelForCausalLM::from_pretrained(path, {.dtype = "auto"});
  const std::vector<std::int32_t> shared =
      tokenizer->encode("It was a dark night, and", mamba2::SpecialTokens::include);

  mamba2::Request request;
  request.prompt_ids = shared;
  request.config = mamba2::generation_config_of(model);
  request.config.max_new_tokens = 12;
  mamba2::Request first = request;
  first.on_snapshot = [&](mamba2::SnapshotId kept) { request.from = kept; };
  mamba2::Engine engine(model, {.slots = 4});
  engine.submit(first);
  finish(engine);

  for (const std::string ending : {"", " the wind", " nobody"}) {
    request.prompt_ids = shared;
    for (const std::int32_t id : tokenizer->encode(ending, mamba2::SpecialTokens::omit))
      request.prompt_ids.push_back(id);
    request.on_end = [&, ids = request.prompt_ids](const mamba2::SequenceEnd& end) mutable {
      ids.insert(ids.end(), end.new_ids.begin(), end.new_ids.end());
      std::cout << tokenizer->decode(ids, mamba2::SpecialTokens::omit) << "\n";
    };
    engine.submit(request);
  }
  finish(engine);
} catch (const mamba2::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
