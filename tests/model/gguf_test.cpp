#include <gmock/gmock.h>

#include "mamba2/base/gguf_metadata.h"
#include "mamba2/model/held_dtype.h"
#include "support.h"

/// GGUF files that another writer made of golden checkpoints (tools/make_gguf_fixtures.py).
namespace mamba2 {
namespace {

using test::Golden;
using test::relative_error;

std::string fixture(const std::string& name) {
  return MAMBA2_SOURCE_DIR "/tests/data/gguf/" + name;
}

Tensor as_batch_of_one(const Tensor& tensor) {
  return tensor.reshape({1, tensor.size(0), tensor.size(1)});
}

HostTensor logits(const std::string& model_path, const std::string& device, const std::string& dtype = "auto") {
  LoadOptions options;
  options.dtype = dtype;
  Mamba2ForCausalLM model = test::open_lm(model_path, device, options);
  return test::logits_of(model, Golden("hf-groups").integers("single.input_ids"));
}

TEST(GgufModel, GivesTheGoldenLogits) {
  const Golden golden("hf-groups");
  for (const char* device : {"reference", "cpu"})
    EXPECT_LE(
        relative_error(as_batch_of_one(logits(fixture("hf-groups-f32.gguf"), device)), golden.read("single.logits")),
        2e-5)
        << device;
}

TEST(GgufModel, HasTheConfigOfTheCheckpointItWasMadeFrom) {
  const Mamba2Config gguf = test::open_model(fixture("hf-groups-f32.gguf"), "reference").config();
  const Mamba2Config original = test::open_model(test::golden_folder("hf-groups"), "reference").config();
  EXPECT_EQ(gguf.dialect, Dialect::gguf);
  EXPECT_EQ(gguf.vocab_size, original.vocab_size);
  EXPECT_EQ(gguf.hidden_size, original.hidden_size);
  EXPECT_EQ(gguf.num_hidden_layers, original.num_hidden_layers);
  EXPECT_EQ(gguf.num_heads, original.num_heads);
  EXPECT_EQ(gguf.head_dim, original.head_dim);
  EXPECT_EQ(gguf.n_groups, original.n_groups);
  EXPECT_EQ(gguf.state_size, original.state_size);
  EXPECT_EQ(gguf.conv_kernel, original.conv_kernel);
  EXPECT_EQ(gguf.tie_word_embeddings, original.tie_word_embeddings);
  EXPECT_EQ(gguf.eos_token_id, original.eos_token_id);
}

/// Held as q8_0 by us or stored as q8_0 by another: the same blocks.
TEST(GgufModel, StoredAsQ8_0GivesWhatTheCheckpointHeldAsQ8_0Gives) {
  const HostTensor held = logits(test::golden_folder("hf-groups"), "reference", "q8_0");
  // A, which GGUF stores instead of A_log, is rounded on the way there and back
  EXPECT_LE(relative_error(logits(fixture("hf-groups-q8_0.gguf"), "reference"), held), 1e-5);
  // cpu multiplies bytes, a row off by up to half of 1/127 of its largest value.  Such errors add up where products
  // follow each other: x, B, C, dt and z of in_proj meet in a mixer, then comes out_proj, in two layers and a head.
  const double bytes = (2 * (5 + 1) + 1) * 0.5 / 127;
  EXPECT_LE(relative_error(logits(fixture("hf-groups-q8_0.gguf"), "cpu"), held), bytes);
  EXPECT_LE(relative_error(logits(test::golden_folder("hf-groups"), "cpu", "q8_0"), held), bytes);
}

/// Rows of 32 are no blocks of 256: q8_0 takes the place of q4_k and q6_k.
TEST(GgufModel, HeldAsQ4_KHasRowsTooShortForItInQ8_0) {
  const std::string folder = test::golden_folder("hf-groups");
  EXPECT_TRUE(test::same_bits(logits(folder, "reference", "q4_k"), logits(folder, "reference", "q8_0")));
}

TEST(HeldDType, KeepsEmbeddingsAndHeadsAboveFourBits) {
  auto held = [](const char* name, const Shape& shape, WeightRole role, DType wanted) {
    return held_dtype({.name = name, .shape = shape, .shape_text = "", .role = role}, DType::f32, wanted);
  };
  EXPECT_EQ(held("backbone.layers.0.mixer.in_proj.weight", {9, 256}, WeightRole::linear, DType::q4_k), DType::q4_k);
  EXPECT_EQ(held("lm_head.weight", {9, 256}, WeightRole::linear, DType::q4_k), DType::q6_k);
  EXPECT_EQ(held("backbone.embeddings.weight", {9, 256}, WeightRole::embedding, DType::q4_0), DType::q6_k);
  EXPECT_EQ(held("backbone.embeddings.weight", {9, 64}, WeightRole::embedding, DType::q4_0), DType::q8_0);
  EXPECT_EQ(held("w", {9, 64}, WeightRole::linear, DType::q4_0), DType::q4_0);
  EXPECT_EQ(held("w", {9, 64}, WeightRole::linear, DType::q4_k), DType::q8_0);
  EXPECT_EQ(held("w", {9, 40}, WeightRole::linear, DType::q4_k), DType::f16);
  EXPECT_EQ(held("w", {9, 40}, WeightRole::linear, DType::bf16), DType::bf16);
  EXPECT_EQ(held_dtype({.name = "w", .shape = {9, 64}, .shape_text = ""}, DType::q5_0, std::nullopt), DType::q5_0);
}

class GgufConfig : public test::FolderTest {
 protected:
  /// The f32 fixture with the bytes of one key or value replaced by others of the same length.
  std::string error(const std::string& from, const std::string& to) const {
    std::string bytes = test::read_text(fixture("hf-groups-f32.gguf"));
    bytes.replace(bytes.find(from), from.size(), to);
    const GgufMetadata metadata(std::as_bytes(std::span(bytes)), "m.gguf");
    return test::error_of([&] { Mamba2Config::from_gguf(metadata); });
  }
};

TEST_F(GgufConfig, NamesTheKeyThatIsMissing) {
  EXPECT_EQ(error("mamba2.ssm.state_size", "mamba2.ssm.xtate_size"),
            "m.gguf: metadata key 'mamba2.ssm.state_size' is missing");
}

TEST_F(GgufConfig, RefusesOtherArchitectures) {
  EXPECT_EQ(error("\x06" + std::string(7, '\0') + "mamba2", "\x06" + std::string(7, '\0') + "llama3"),
            "m.gguf: general.architecture is 'llama3', expected mamba2");
}

TEST_F(GgufConfig, ChecksSizesAgainstEachOther) {
  const std::string heads = std::string("mamba2.ssm.time_step_rank") + std::string("\4\0\0\0", 4);
  EXPECT_THAT(error(heads + "\x10", heads + "\x11"), ::testing::HasSubstr("expected a multiple of"));
}

}  // namespace
}  // namespace mamba2
