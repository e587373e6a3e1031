#include <gmock/gmock.h>

#include <algorithm>

#include "mamba2/checkpoint/safetensors_writer.h"
#include "support.h"

/// What a cache promises: its slots are independent, and copies, reorderings and files of it go on bit by bit as the
/// original would.
namespace mamba2 {
namespace {

using test::same_bits;
using ::testing::HasSubstr;

class CacheOf : public test::FolderTest, public ::testing::WithParamInterface<std::tuple<std::string, std::string>> {
 protected:
  std::int64_t vocab() const { return model_.config().vocab_size; }

  /// A text of its own for every seed.
  std::vector<std::int32_t> text(std::int64_t tokens, std::int64_t seed) const {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < tokens; ++i)
      ids.push_back(static_cast<std::int32_t>((i * i + 7 * i + 31 * seed + 3) % vocab()));
    return ids;
  }

  /// The logits of the last token.  Where tokens can be left pending they are: all but two go one by one.
  HostTensor feed(Mamba2Cache& cache, std::int64_t slot, const std::vector<std::int32_t>& ids) {
    const bool pending = std::get<1>(GetParam()) == "pending";
    const std::size_t together = pending ? std::min<std::size_t>(2, ids.size()) : ids.size();
    SequenceInput input{.input_ids = std::span(ids).first(together), .slot = slot};
    HostTensor logits = std::move(model_.forward({&input, 1}, cache).logits);
    for (std::size_t i = together; i < ids.size(); ++i) {
      input.input_ids = std::span(ids).subspan(i, 1);
      logits = std::move(model_.forward({&input, 1}, cache).logits);
    }
    return logits;
  }

  Mamba2ForCausalLM model_ = test::open_lm(test::golden_folder(std::get<0>(GetParam())), std::get<1>(GetParam()));
};

std::string readable(const ::testing::TestParamInfo<CacheOf::ParamType>& info) {
  std::string text = std::get<0>(info.param) + "_on_" + std::get<1>(info.param);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

INSTANTIATE_TEST_SUITE_P(Models, CacheOf,
                         ::testing::Combine(::testing::Values("hf-odd", "fork-hybrid", "state-spaces-d-ssm"),
                                            ::testing::Values("reference", "cpu", "pending")),
                         readable);

TEST_P(CacheOf, ACopiedSlotGoesOnAsItsSourceAndTheOthersStayAsTheyWere) {
  Mamba2Cache cache = model_.make_cache(3), untouched = model_.make_cache(3);
  feed(cache, 0, text(9, 0));
  feed(cache, 1, text(5, 1));
  feed(untouched, 1, text(5, 1));
  cache.copy_slot(0, 2);
  EXPECT_EQ(cache.length(2), 9);
  const HostTensor expected = feed(cache, 0, text(2, 3));
  EXPECT_TRUE(same_bits(feed(cache, 2, text(2, 3)), expected));
  EXPECT_TRUE(same_bits(feed(cache, 1, text(2, 3)), feed(untouched, 1, text(2, 3))));
}

TEST_P(CacheOf, ReorderingTakesEachSlotFromItsSourceAlsoWhereSourcesRepeat) {
  Mamba2Cache cache = model_.make_cache(3);
  for (std::int64_t slot = 0; slot < 3; ++slot) feed(cache, slot, text(4 + slot, slot));
  Mamba2Cache before = cache.clone();
  const std::vector<std::int64_t> sources{2, 0, 0};
  cache.reorder(sources);
  for (std::int64_t slot = 0; slot < 3; ++slot) {
    const std::int64_t source = sources[static_cast<std::size_t>(slot)];
    EXPECT_EQ(cache.length(slot), 4 + source);
    Mamba2Cache original = before.clone();
    EXPECT_TRUE(same_bits(feed(cache, slot, text(3, 8)), feed(original, source, text(3, 8)))) << slot;
  }
}

TEST_P(CacheOf, ACloneIsIndependent) {
  Mamba2Cache cache = model_.make_cache(1);
  feed(cache, 0, text(6, 0));
  Mamba2Cache copy = cache.clone();
  feed(copy, 0, text(3, 5));
  Mamba2Cache fresh = model_.make_cache(1);
  feed(fresh, 0, text(6, 0));
  EXPECT_TRUE(same_bits(feed(cache, 0, text(2, 1)), feed(fresh, 0, text(2, 1))));
}

TEST_P(CacheOf, AResetSlotIsANewOneAndTheOthersStay) {
  Mamba2Cache cache = model_.make_cache(2), fresh = model_.make_cache(2);
  for (const std::int64_t slot : {0, 1}) feed(cache, slot, text(6, slot));
  feed(fresh, 1, text(6, 1));
  cache.reset(0);
  EXPECT_EQ(cache.length(0), 0);
  EXPECT_TRUE(same_bits(feed(cache, 0, text(4, 2)), feed(fresh, 0, text(4, 2))));
  EXPECT_TRUE(same_bits(feed(cache, 1, text(4, 2)), feed(fresh, 1, text(4, 2))));
}

TEST_P(CacheOf, ResetMakesAllSlotsNew) {
  Mamba2Cache cache = model_.make_cache(2), fresh = model_.make_cache(2);
  for (const std::int64_t slot : {0, 1}) feed(cache, slot, text(6, slot));
  cache.reset();
  for (const std::int64_t slot : {0, 1})
    EXPECT_TRUE(same_bits(feed(cache, slot, text(4, 2)), feed(fresh, slot, text(4, 2))));
}

TEST_P(CacheOf, ALoadedFileGoesOnAsTheSavedCacheWhateverWasInTheWay) {
  Mamba2Cache cache = model_.make_cache(2), loaded = model_.make_cache(2);
  for (const std::int64_t slot : {0, 1}) feed(cache, slot, text(6 + slot, slot));
  cache.save(path("state.safetensors"));
  feed(loaded, 1, text(300, 4));
  loaded.load(path("state.safetensors"));
  for (const std::int64_t slot : {0, 1}) {
    EXPECT_EQ(loaded.length(slot), 6 + slot);
    EXPECT_TRUE(same_bits(feed(loaded, slot, text(4, 2)), feed(cache, slot, text(4, 2)))) << slot;
  }
}

TEST_P(CacheOf, ANewOneSavedAndLoadedIsNew) {
  Mamba2Cache cache = model_.make_cache(1), fresh = model_.make_cache(1);
  cache.save(path("state.safetensors"));
  feed(cache, 0, text(5, 0));
  cache.load(path("state.safetensors"));
  EXPECT_EQ(cache.length(0), 0);
  EXPECT_TRUE(same_bits(feed(cache, 0, text(4, 2)), feed(fresh, 0, text(4, 2))));
}

TEST_P(CacheOf, OfTwoSlotsDoesNotLoadAFileOfOneAndStaysAsItWas) {
  model_.make_cache(1).save(path("state.safetensors"));
  Mamba2Cache cache = model_.make_cache(2), same = model_.make_cache(2);
  feed(cache, 1, text(5, 0));
  feed(same, 1, text(5, 0));
  EXPECT_THAT(test::error_of([&] { cache.load(path("state.safetensors")); }),
              HasSubstr("state.safetensors: tensor 'lengths' is i64 (1), expected i64 (2)"));
  EXPECT_TRUE(same_bits(feed(cache, 1, text(4, 2)), feed(same, 1, text(4, 2))));
}

TEST_P(CacheOf, SequencesGiveTheSameInAnyCompositionAndOrderOfTheBatch) {
  // a prompt, a longer one, a sequence that goes on by one token, one that has nothing to feed
  const std::vector<std::vector<std::int32_t>> texts{text(7, 0), text(19, 1), text(1, 2), {}};
  auto run = [&](const std::vector<std::size_t>& order) {
    Mamba2Cache cache = model_.make_cache(4);
    feed(cache, 2, text(11, 5));
    std::vector<SequenceInput> inputs;
    for (const std::size_t i : order) inputs.push_back({.input_ids = texts[i], .slot = static_cast<std::int64_t>(i)});
    const ForwardOutput output = model_.forward(inputs, cache);
    std::vector<HostTensor> rows(texts.size());
    std::int64_t row = 0;
    for (const std::size_t i : order) {
      if (texts[i].empty()) continue;
      rows[i] = HostTensor(output.logits.view().dtype, {vocab()});
      convert(output.logits.view()[row++], rows[i]);
    }
    return rows;
  };
  const bool exact = std::get<1>(GetParam()) == "reference";
  const std::vector<HostTensor> together = run({0, 1, 2, 3}), reversed = run({3, 2, 1, 0});
  for (const std::size_t i : {0U, 1U, 2U}) {
    const std::vector<HostTensor> alone = run({i});
    for (const HostTensor* other : {&reversed[i], &alone[i]}) {
      if (exact) {
        EXPECT_TRUE(same_bits(together[i], *other)) << i;
      }
      EXPECT_LE(test::relative_error(together[i], *other), 2e-5) << i;
    }
  }
}

TEST_P(CacheOf, KeepsTheLastLogitsThatAreAskedFor) {
  const std::vector<std::int32_t> a = text(9, 0), b = text(4, 1);
  auto run = [&](std::int64_t keep_a, std::int64_t keep_b) {
    Mamba2Cache cache = model_.make_cache(2);
    const SequenceInput inputs[] = {{.input_ids = a, .slot = 0, .logits_to_keep = keep_a},
                                    {.input_ids = b, .slot = 1, .logits_to_keep = keep_b}};
    return std::move(model_.forward(inputs, cache).logits);
  };
  const HostTensor all = run(all_positions, all_positions), some = run(2, 100), none = run(0, 0);
  ASSERT_EQ(all.view().size(0), 13);
  ASSERT_EQ(some.view().size(0), 6);
  EXPECT_EQ(none.view().size(0), 0);
  EXPECT_LE(test::relative_error(some, all.view().slice(0, 7, 6)), 2e-5);
}

TEST_P(CacheOf, EmbeddingsInThePlaceOfIdsGiveTheSame) {
  const std::vector<std::int32_t> ids = text(8, 3);
  Mamba2Cache cache = model_.make_cache(1), other = model_.make_cache(1);
  const SequenceInput by_ids{.input_ids = ids, .logits_to_keep = all_positions};
  const ForwardOutput expected = model_.forward({&by_ids, 1}, cache, {.output_hidden_states = true});
  const Tensor embeds = expected.hidden_states.front();
  const SequenceInput by_embeds{.inputs_embeds = {embeds.as<float>(), static_cast<std::size_t>(embeds.elements())},
                                .logits_to_keep = all_positions};
  EXPECT_TRUE(same_bits(model_.forward({&by_embeds, 1}, other).logits, expected.logits));
  EXPECT_EQ(other.length(0), 8);
}

TEST_P(CacheOf, APromptLongerThanAPieceOfWorkGivesWhatItsTokensGiveOneByOne) {
  const std::vector<std::int32_t> ids = text(1100, 0), other = text(1000, 1);
  Mamba2Cache cache = model_.make_cache(2), steps = model_.make_cache(2);
  const SequenceInput inputs[] = {{.input_ids = other, .slot = 1}, {.input_ids = ids, .slot = 0}};
  const ForwardOutput output = model_.forward(inputs, cache);
  HostTensor last;
  for (const std::int32_t id : ids) last = feed(steps, 0, {id});
  const Tensor got = output.logits.view().slice(0, 1, 1);
  if (std::get<1>(GetParam()) == "reference") {
    EXPECT_TRUE(same_bits(got, last));
  }
  EXPECT_LE(test::relative_error(got, last), 2e-5);
}

TEST_P(CacheOf, ALongSequenceGivesEqualBitsWhateverItsNeighbours) {
  const std::vector<std::int32_t> ids = text(1100, 0);
  Mamba2Cache alone = model_.make_cache(1);
  const SequenceInput whole{.input_ids = ids};
  const HostTensor expected = std::move(model_.forward({&whole, 1}, alone).logits);
  for (const std::int64_t neighbour_tokens : {1, 30, 1000, 1030}) {
    const std::vector<std::int32_t> other = text(neighbour_tokens, 1);
    Mamba2Cache cache = model_.make_cache(2);
    const SequenceInput inputs[] = {{.input_ids = other, .slot = 1}, {.input_ids = ids, .slot = 0}};
    const ForwardOutput output = model_.forward(inputs, cache);
    EXPECT_TRUE(same_bits(output.logits.view().slice(0, 1, 1), expected)) << neighbour_tokens;
  }
}

TEST_P(CacheOf, ASlotTakenIntoAnotherCacheGoesOnAsInItsOwn) {
  Mamba2Cache cache = model_.make_cache(2), other = model_.make_cache(3), fresh = model_.make_cache(1);
  feed(cache, 1, text(9, 0));
  feed(fresh, 0, text(9, 0));
  feed(other, 0, text(4, 1));
  feed(other, 2, text(5, 2));
  other.copy_slot(cache, 1, 2);
  EXPECT_EQ(other.length(2), 9);
  const HostTensor expected = feed(fresh, 0, text(3, 3));
  EXPECT_TRUE(same_bits(feed(other, 2, text(3, 3)), expected));
  EXPECT_TRUE(same_bits(feed(cache, 1, text(3, 3)), expected));
}

TEST_P(CacheOf, AnOutputUsedAgainHoldsWhatANewOneHolds) {
  Mamba2Cache cache = model_.make_cache(1), same = model_.make_cache(1);
  ForwardOutput used;
  for (const std::int64_t tokens : {5, 9, 1}) {
    const std::vector<std::int32_t> ids = text(tokens, 2);
    const SequenceInput input{.input_ids = ids, .logits_to_keep = all_positions};
    model_.forward({&input, 1}, cache, {.output_hidden_states = true}, used);
    const ForwardOutput expected = model_.forward({&input, 1}, same, {.output_hidden_states = true});
    EXPECT_TRUE(same_bits(used.logits, expected.logits));
    EXPECT_TRUE(same_bits(used.hidden_states.back(), expected.hidden_states.back()));
    EXPECT_TRUE(used.last_hidden_state.view().empty());
  }
}

TEST_P(CacheOf, NothingToFeedChangesNothing) {
  Mamba2Cache cache = model_.make_cache(1), same = model_.make_cache(1);
  feed(cache, 0, text(4, 0));
  feed(same, 0, text(4, 0));
  EXPECT_EQ(feed(cache, 0, {}).view().size(0), 0);
  EXPECT_EQ(model_.forward({}, cache).logits.view().size(0), 0);
  EXPECT_TRUE(same_bits(feed(cache, 0, text(3, 1)), feed(same, 0, text(3, 1))));
}

TEST_P(CacheOf, AWrongRequestIsAnErrorAndChangesNothing) {
  Mamba2Cache cache = model_.make_cache(2), same = model_.make_cache(2);
  const std::vector<std::int32_t> good = text(3, 0), low{1, -1}, high{1, static_cast<std::int32_t>(vocab())};
  const std::vector<float> embeds(static_cast<std::size_t>(model_.config().hidden_size) + 1);
  auto error = [&](std::vector<SequenceInput> inputs) {
    return test::error_of([&] { model_.forward(inputs, cache); });
  };
  EXPECT_THAT(error({{.input_ids = good}, {.input_ids = low, .slot = 1}}), HasSubstr("token id -1 is outside"));
  EXPECT_THAT(error({{.input_ids = high}}), HasSubstr("is outside the vocabulary of " + std::to_string(vocab())));
  EXPECT_THAT(error({{.input_ids = good, .slot = 2}}), HasSubstr("slot 2 is outside the cache's 2"));
  EXPECT_THAT(error({{.input_ids = good, .slot = -1}}), HasSubstr("slot -1 is outside the cache's 2"));
  EXPECT_THAT(error({{.input_ids = good}, {.input_ids = good}}), HasSubstr("slot 0 is named by two sequences"));
  EXPECT_THAT(error({{.input_ids = good, .logits_to_keep = -2}}), HasSubstr("logits_to_keep is -2"));
  EXPECT_THAT(error({{.input_ids = good, .inputs_embeds = embeds}}), HasSubstr("both input_ids and inputs_embeds"));
  EXPECT_THAT(error({{.inputs_embeds = embeds}}), HasSubstr("inputs_embeds holds"));
  EXPECT_TRUE(same_bits(feed(cache, 0, good), feed(same, 0, good)));
}

TEST_P(CacheOf, WrongSlotsAreErrors) {
  Mamba2Cache cache = model_.make_cache(2);
  EXPECT_THAT(test::error_of([&] { cache.copy_slot(0, 2); }), HasSubstr("slot 2 is outside"));
  EXPECT_THAT(test::error_of([&] { cache.reset(-1); }), HasSubstr("slot -1 is outside"));
  const Mamba2Cache other = model_.make_cache(1);
  EXPECT_THAT(test::error_of([&] { cache.copy_slot(other, 1, 0); }), HasSubstr("slot 1 is outside the cache's 1"));
  EXPECT_THAT(test::error_of([&] { cache.copy_slot(other, 0, 2); }), HasSubstr("slot 2 is outside the cache's 2"));
  const std::vector<std::int64_t> few{0}, wrong{0, 2};
  EXPECT_THAT(test::error_of([&] { cache.reorder(few); }), HasSubstr("1 sources were given to reorder 2 slots"));
  EXPECT_THAT(test::error_of([&] { cache.reorder(wrong); }), HasSubstr("slot 2 is outside"));
  EXPECT_THAT(test::error_of([&] { model_.make_cache(0); }), HasSubstr("a cache of 0 sequences"));
}

using CacheFile = test::FolderTest;

TEST_F(CacheFile, OfAnotherModelIsAnErrorThatNamesTheTensor) {
  const Mamba2ForCausalLM odd = test::open_lm(test::golden_folder("hf-odd"), "reference");
  const Mamba2ForCausalLM basic = test::open_lm(test::golden_folder("hf-basic"), "reference");
  odd.make_cache(1).save(path("odd.safetensors"));
  Mamba2Cache cache = basic.make_cache(1);
  EXPECT_THAT(test::error_of([&] { cache.load(path("odd.safetensors")); }),
              HasSubstr("tensor 'conv_state.0' is f32 (1, 52, 2), expected f32 (1, 96, 3)"));
}

TEST_F(CacheFile, ThatIsNotThereOrNoCacheIsAnError) {
  const Mamba2ForCausalLM model = test::open_lm(test::golden_folder("hf-basic"), "reference");
  Mamba2Cache cache = model.make_cache(1);
  EXPECT_THAT(test::error_of([&] { cache.load(path("none.safetensors")); }), HasSubstr("none.safetensors"));
  EXPECT_THAT(test::error_of([&] { cache.load(test::golden_folder("hf-basic") + "/model.safetensors"); }),
              HasSubstr("tensor 'lengths' is missing"));
}

/// Writes a cache file of fork-hybrid's shapes but for its lengths and the extent of its keys and values.
void write_hybrid_cache(const std::string& path, std::int64_t length, std::int64_t key_tokens,
                        std::int64_t value_tokens, std::int64_t kv_heads = 2) {
  std::vector<TensorSpec> specs{{"lengths", DType::i64, {1}}};
  for (const char* layer : {"0", "1", "2", "3"}) {
    specs.push_back({std::string("conv_state.") + layer, DType::f32, {1, 96, 3}});
    if (*layer == '0' || *layer == '2') {
      specs.push_back({std::string("ssm_state.") + layer, DType::f32, {1, 8, 8, 16}});
      continue;
    }
    specs.push_back({std::string("k_cache.") + layer, DType::f32, {1, key_tokens, kv_heads, 12}});
    specs.push_back({std::string("v_cache.") + layer, DType::f32, {1, value_tokens, kv_heads, 12}});
  }
  SafetensorsWriter writer(path, specs);
  for (const TensorSpec& spec : writer.tensors()) {
    const HostTensor zeros(spec.dtype, spec.shape);
    if (spec.name == "lengths") *zeros.view().as<std::int64_t>() = length;
    writer.write(zeros);
  }
  writer.finish();
  writer.commit();
}

TEST_F(CacheFile, WhoseLengthsDoNotFitIsAnErrorBeforeAnyMemoryIsAskedFor) {
  const Mamba2ForCausalLM model = test::open_lm(test::golden_folder("fork-hybrid"), "reference");
  Mamba2Cache cache = model.make_cache(1);
  auto error = [&](std::int64_t length, std::int64_t keys, std::int64_t values, std::int64_t kv_heads = 2) {
    write_hybrid_cache(path("state.safetensors"), length, keys, values, kv_heads);
    return test::error_of([&] { cache.load(path("state.safetensors")); });
  };
  EXPECT_THAT(error(-1, 4, 4), HasSubstr("lengths holds -1, expected 0 to 2147483647"));
  EXPECT_THAT(error(std::int64_t{1} << 40, 4, 4), HasSubstr("lengths holds 1099511627776"));
  EXPECT_THAT(error(5, 4, 4), HasSubstr("tensor 'k_cache.1' holds 4 tokens, expected 5 by lengths"));
  EXPECT_THAT(error(4, 4, 3), HasSubstr("tensor 'v_cache.1' holds 3 tokens, expected 4 by lengths"));
  EXPECT_THAT(error(4, std::int64_t{1} << 40, std::int64_t{1} << 40, 0), HasSubstr("tensor 'k_cache.1' is f32"));
  write_hybrid_cache(path("state.safetensors"), 4, 4, 4);
  cache.load(path("state.safetensors"));
  EXPECT_EQ(cache.length(0), 4);
}

TEST(Cache, OfAnotherDepthIsAnError) {
  Mamba2ForCausalLM model = test::open_lm(test::golden_folder("hf-basic"), "reference");
  const Mamba2ForCausalLM other = test::open_lm(test::golden_folder("hf-odd"), "reference");
  Mamba2Cache cache = other.make_cache(1);
  const std::vector<std::int32_t> ids{1};
  const SequenceInput input{.input_ids = ids};
  EXPECT_THAT(test::error_of([&] {
                model.forward({&input, 1}, cache);
              }),
              HasSubstr("the cache was made for 2 layers, the model has 3"));
}

TEST(Cache, GrowsWithTheKeysOfALongTextFedInParts) {
  Mamba2ForCausalLM model = test::open_lm(test::golden_folder("fork-hybrid"), "reference");
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 700; ++i) ids.push_back((i * i + 5 * i) % 64);
  Mamba2Cache cache = model.make_cache(2);
  EXPECT_TRUE(same_bits(test::logits_in_pieces(model, cache, ids, 90), test::logits_of(model, ids)));
}

TEST(Cache, OfAModelWithDynamicRopeGivesEachLongSequenceWhatItGetsAlone) {
  Mamba2ForCausalLM model = test::open_lm(test::golden_folder("fork-rope-dynamic"), "reference");
  std::vector<std::vector<std::int32_t>> texts(3);
  for (std::int32_t s = 0; s < 3; ++s)
    for (std::int32_t i = 0; i < 500; ++i) texts[static_cast<std::size_t>(s)].push_back((i * i + 5 * s) % 64);
  std::vector<SequenceInput> inputs;
  for (std::int64_t s = 0; s < 3; ++s)
    inputs.push_back({.input_ids = texts[static_cast<std::size_t>(s)], .slot = s, .logits_to_keep = all_positions});
  Mamba2Cache cache = model.make_cache(3);
  const ForwardOutput output = model.forward(inputs, cache);
  for (std::int64_t s = 0; s < 3; ++s)
    EXPECT_TRUE(same_bits(output.logits.view().slice(0, 500 * s, 500),
                          test::logits_of(model, texts[static_cast<std::size_t>(s)])))
        << s;
}

}  // namespace
}  // namespace mamba2
