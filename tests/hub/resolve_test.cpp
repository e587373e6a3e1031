#include <gmock/gmock.h>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "tests/hub/hub_fixture.h"

namespace mamba2 {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class ResolveTest : public test::HubFixture {
 protected:
  std::string snapshot() const { return root() + "/snapshots/" + hub_.commit(); }
  static std::string index_of(const std::string& a, const std::string& b) {
    return R"({"metadata": {}, "weight_map": {"x": ")" + a + R"(", "y": ")" + b + R"(", "z": ")" + a + R"("}})";
  }
  /// A snapshot as the Python client leaves it.
  void link_in_cache(const std::string& commit, const std::string& name, const std::string& content) const {
    const std::string hash = test::git_hash(content);
    write(root() + "/blobs/" + hash, content);
    fs::create_directories(root() + "/snapshots/" + commit);
    fs::create_symlink("../../blobs/" + hash, root() + "/snapshots/" + commit + "/" + name);
  }
};

TEST_F(ResolveTest, AFreshDownloadHoldsWhatIsNeededAndNoMore) {
  for (const char* name : {"generation_config.json", "tokenizer_config.json", "special_tokens_map.json"})
    hub_.add_file(name, std::string("{} ") + name);
  for (const char* name : {"README.md", ".gitattributes", "onnx/config.json", "training_args.bin"})
    hub_.add_file(name, "unwanted");
  hub_.add_large_file("pytorch_model.bin", "the same weights again");
  hub_.add_large_file("consolidated.safetensors", "and again");
  EXPECT_EQ(resolve(), snapshot());
  EXPECT_THAT(files_in(snapshot()), ElementsAre("config.json", "generation_config.json", "model.safetensors",
                                                "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"));
  EXPECT_EQ(content_of(snapshot() + "/model.safetensors"), weights_);
  EXPECT_EQ(content_of(snapshot() + "/config.json"), R"({"model_type": "mamba2"})");
}

TEST_F(ResolveTest, TheCacheIsLaidOutAsThePythonClientHasIt) {
  resolve();
  EXPECT_EQ(content_of(root() + "/refs/main"), hub_.commit());
  EXPECT_EQ(fs::read_symlink(snapshot() + "/model.safetensors"), "../../blobs/" + test::sha256(weights_));
  EXPECT_EQ(fs::read_symlink(snapshot() + "/tokenizer.json"), "../../blobs/" + test::git_hash("{}"));
  EXPECT_THAT(files_in(root() + "/blobs"),
              ElementsAre(test::sha256(weights_), test::git_hash(R"({"model_type": "mamba2"})"), test::git_hash("{}")));
  EXPECT_THAT(files_in(options_.cache_directory + "/.locks/models--org--name"),
              Contains(test::sha256(weights_) + ".lock"));
  EXPECT_THAT(content_of(options_.cache_directory + "/CACHEDIR.TAG"),
              HasSubstr("Signature: 8a477f597d28d172789f06886806bc55"));
}

TEST_F(ResolveTest, TheSecondTimeNoServerIsAsked) {
  resolve();
  const std::size_t before = hub_.requests().size();
  EXPECT_EQ(resolve(), snapshot());
  EXPECT_EQ(resolve("org/name@" + hub_.commit()), snapshot());
  EXPECT_EQ(hub_.requests().size(), before);
}

TEST_F(ResolveTest, OfACodestralKindOfRepositoryOnlyTheIndexedShardsAreTaken) {
  hub_.remove_file("model.safetensors");
  hub_.add_file("params.json", "{\"dim\": 1}");
  hub_.add_file("tokenizer.model.v3", "sentencepiece");
  hub_.add_large_file("consolidated.safetensors", "the same weights again");
  hub_.add_large_file("model-1.safetensors", "first");
  hub_.add_large_file("model-2.safetensors", "second");
  hub_.add_large_file("model-3.safetensors", "in no index");
  hub_.add_file("model.safetensors.index.json", index_of("model-2.safetensors", "model-1.safetensors"));
  resolve();
  EXPECT_THAT(files_in(snapshot()),
              ElementsAre("config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json",
                          "params.json", "tokenizer.json", "tokenizer.model.v3"));
}

TEST_F(ResolveTest, ConsolidatedWeightsArePreferredToPickledOnes) {
  hub_.remove_file("model.safetensors");
  hub_.add_large_file("consolidated.safetensors", "weights");
  hub_.add_large_file("pytorch_model.bin", "the same weights again");
  resolve();
  EXPECT_THAT(files_in(snapshot()), AllOf(Contains("consolidated.safetensors"), Not(Contains("pytorch_model.bin"))));
}

TEST_F(ResolveTest, PickledShardsAreTakenWhereThereIsNothingElse) {
  hub_.remove_file("model.safetensors");
  hub_.add_file("pytorch_model.bin.index.json", index_of("pytorch_model-1.bin", "pytorch_model-2.bin"));
  hub_.add_large_file("pytorch_model-1.bin", "first");
  hub_.add_large_file("pytorch_model-2.bin", "second");
  resolve();
  EXPECT_THAT(files_in(snapshot()), AllOf(Contains("pytorch_model-1.bin"), Contains("pytorch_model-2.bin")));
}

TEST_F(ResolveTest, AShardThatTheRepositoryLacksIsNamed) {
  hub_.remove_file("model.safetensors");
  hub_.add_file("model.safetensors.index.json", index_of("a.safetensors", "b.safetensors"));
  hub_.add_large_file("a.safetensors", "first");
  EXPECT_EQ(failure(), "org/name: has no file b.safetensors, which its index lists");
}

TEST_F(ResolveTest, AModelWithoutConfigOrWeightsIsRefused) {
  hub_.remove_file("model.safetensors");
  EXPECT_THAT(failure(), HasSubstr("org/name: has no weights at revision 'main', expected model.safetensors"));
  hub_.remove_file("config.json");
  EXPECT_EQ(failure(), "org/name: has neither config.json nor params.json at revision 'main'");
}

TEST_F(ResolveTest, AFolderThatThePythonClientLeftIsUsedWithoutARequest) {
  const std::string commit(40, 'a');
  write(root() + "/refs/main", commit);
  link_in_cache(commit, "config.json", "{}");
  link_in_cache(commit, "tokenizer.json", "{\"a\": 1}");
  link_in_cache(commit, "pytorch_model.bin", "weights");
  EXPECT_EQ(resolve(), root() + "/snapshots/" + commit);
  EXPECT_EQ(hub_.requests().size(), 0U);
}

TEST_F(ResolveTest, APartialFolderIsCompleted) {
  write(root() + "/refs/main", hub_.commit());
  link_in_cache(hub_.commit(), "config.json", R"({"model_type": "mamba2"})");
  EXPECT_EQ(resolve(), snapshot());
  EXPECT_EQ(content_of(snapshot() + "/model.safetensors"), weights_);
  EXPECT_EQ(hub_.count("/config.json"), 0U) << "its blob was there";
}

TEST_F(ResolveTest, ALinkWhoseBlobIsGoneIsMadeGood) {
  resolve();
  fs::remove(root() + "/blobs/" + test::sha256(weights_));
  resolve();
  EXPECT_EQ(content_of(snapshot() + "/model.safetensors"), weights_);
}

TEST_F(ResolveTest, ANewCommitFetchesOnlyWhatChanged) {
  resolve();
  const std::string next(40, 'd');
  hub_.add_revision("next", next);
  hub_.add_file("config.json", R"({"model_type": "mamba2", "eos_token_id": 0})");
  EXPECT_EQ(resolve("org/name@next"), root() + "/snapshots/" + next);
  EXPECT_EQ(content_of(root() + "/refs/next"), next);
  EXPECT_EQ(hub_.count("/model.safetensors"), 2U) << "once at the endpoint, once at the store";
  EXPECT_EQ(hub_.count("/config.json"), 2U);
}

TEST_F(ResolveTest, ARevisionWithSlashesHasItsRefBelowRefs) {
  hub_.add_revision("refs%2Fpr%2F1", hub_.commit());
  EXPECT_EQ(resolve("org/name@refs/pr/1"), snapshot());
  EXPECT_EQ(content_of(root() + "/refs/refs/pr/1"), hub_.commit());
}

TEST_F(ResolveTest, ACommitHashLeavesNoRef) {
  EXPECT_EQ(resolve("org/name@" + hub_.commit()), snapshot());
  EXPECT_FALSE(fs::exists(root() + "/refs"));
}

TEST_F(ResolveTest, AModelWithoutATokenizerIsAskedForOnce) {
  hub_.remove_file("tokenizer.json");
  resolve();
  const std::size_t before = hub_.requests().size();
  EXPECT_EQ(resolve(), snapshot());
  EXPECT_EQ(hub_.requests().size(), before);
  EXPECT_TRUE(file_exists(root() + "/.no_exist/" + hub_.commit() + "/tokenizer.json"));
}

TEST_F(ResolveTest, ACachedModelIsUsedAsItIsWhereItsTokenizerCannotBeAskedFor) {
  const std::string commit(40, 'a');
  write(root() + "/refs/main", commit);
  link_in_cache(commit, "config.json", "{}");
  link_in_cache(commit, "model.safetensors", "weights");
  options_.offline = true;
  EXPECT_EQ(resolve(), root() + "/snapshots/" + commit);
  options_.offline = false;
  options_.retries = 0;
  hub_.alter_next("/api/", [](test::Response& r) { r.status = 503; });
  EXPECT_EQ(resolve(), root() + "/snapshots/" + commit);
}

TEST_F(ResolveTest, OfflineNothingIsAskedAndWhatLacksIsNamed) {
  options_.offline = true;
  EXPECT_THAT(failure(), AllOf(HasSubstr("org/name: revision 'main' is not in the cache " + options_.cache_directory),
                               HasSubstr("HF_HUB_OFFLINE")));
  write(root() + "/refs/main", hub_.commit());
  EXPECT_THAT(failure(), HasSubstr("org/name: config.json is not in the cache"));
  link_in_cache(hub_.commit(), "config.json", "{}");
  EXPECT_THAT(failure(), HasSubstr("org/name: a file of weights is not in the cache"));
  link_in_cache(hub_.commit(), "model.safetensors.index.json", index_of("a.safetensors", "b.safetensors"));
  link_in_cache(hub_.commit(), "a.safetensors", "first");
  EXPECT_THAT(failure(), HasSubstr("org/name: b.safetensors is not in the cache"));
  EXPECT_EQ(hub_.requests().size(), 0U);
}

TEST_F(ResolveTest, TheTokenIsSentToTheEndpointAndToNobodyElse) {
  options_.token = "hf_secret";
  resolve();
  for (const auto& request : hub_.requests())
    EXPECT_EQ(request.header("authorization"), "Bearer hf_secret") << request.target;
  ASSERT_EQ(hub_.store_requests().size(), 1U);
  EXPECT_EQ(hub_.store_requests()[0].header("authorization"), "");
}

TEST_F(ResolveTest, WithoutATokenNoneIsSent) {
  resolve();
  for (const auto& request : hub_.requests()) EXPECT_EQ(request.header("authorization"), "") << request.target;
}

TEST_F(ResolveTest, WhereTheListingLacksHashesTheHeadersTellThem) {
  hub_.hide_hashes();
  resolve();
  EXPECT_EQ(content_of(snapshot() + "/model.safetensors"), weights_);
  EXPECT_EQ(fs::read_symlink(snapshot() + "/tokenizer.json"), "../../blobs/" + test::git_hash("{}"));
}

TEST_F(ResolveTest, AFileNobodyTellsTheHashOfIsRefused) {
  hub_.hide_hashes();
  hub_.alter_next("/config.json", [](test::Response& r) { r.headers["ETag"] = "\"../../x\""; });
  EXPECT_EQ(failure(), "org/name: config.json: the server gives '../../x' as ETag, expected a sha256 or a git hash");
}

TEST_F(ResolveTest, AListedNameThatLeavesTheFolderIsRefused) {
  hub_.add_file("../../../evil.json", "x");
  EXPECT_EQ(failure(),
            "org/name: the server lists a file '../../../evil.json', expected names inside the model's folder");
}

TEST_F(ResolveTest, AnIndexedNameThatLeavesTheFolderIsRefused) {
  hub_.remove_file("model.safetensors");
  hub_.add_file("model.safetensors.index.json", index_of("/etc/passwd", "b.safetensors"));
  EXPECT_THAT(failure(), HasSubstr("weight_map['x'] is '/etc/passwd', expected a file inside the folder"));
}

TEST_F(ResolveTest, ARefusedModelSaysHowToGetAccess) {
  hub_.alter_next("/api/", [](test::Response& r) { r.status = 401; });
  EXPECT_THAT(failure(), AllOf(HasSubstr("org/name: there is no such model at"), HasSubstr("set HF_TOKEN")));
  hub_.alter_next("/api/", [](test::Response& r) {
    r.status = 403;
    r.headers["X-Error-Message"] = "Too bad";
  });
  EXPECT_THAT(failure(), AllOf(HasSubstr("refuses access (403 Too bad)"), HasSubstr("set HF_TOKEN")));
  options_.token = "hf_secret";
  hub_.alter_next("/api/", [](test::Response& r) { r.status = 401; });
  EXPECT_THAT(failure(), HasSubstr("the token in use (HF_TOKEN) gives no access"));
}

TEST_F(ResolveTest, AGatedModelSaysWhereToAcceptItsTerms) {
  hub_.alter_next("/resolve/", [](test::Response& r) {
    r.status = 403;
    r.headers["X-Error-Code"] = "GatedRepo";
  });
  EXPECT_THAT(failure(), AllOf(HasSubstr("org/name: is gated: accept its terms at " + hub_.endpoint() + "/org/name"),
                               HasSubstr("set HF_TOKEN")));
}

TEST_F(ResolveTest, AnUnknownRevisionOrModelIsNamed) {
  EXPECT_EQ(failure("org/name@v9"), "org/name: has no revision 'v9' at " + hub_.endpoint());
  EXPECT_THAT(failure("org/other"), HasSubstr("org/other: there is no such model at " + hub_.endpoint()));
}

TEST_F(ResolveTest, AServerThatIsNoHubIsNamed) {
  hub_.alter_next("/api/", [](test::Response& r) { r.body = "<html>"; });
  EXPECT_THAT(failure(), HasSubstr("org/name: the server's answer: line 1"));
  hub_.alter_next("/api/", [](test::Response& r) { r.body = "{}"; });
  EXPECT_THAT(failure(), HasSubstr("org/name: the server's answer has no field 'sha'"));
}

TEST_F(ResolveTest, ADamagedRefIsNamed) {
  write(root() + "/refs/main", "../../elsewhere");
  EXPECT_EQ(failure(), root() + "/refs/main: holds '../../elsewhere', expected a commit's 40 hexadecimal digits");
}

TEST_F(ResolveTest, ANameThatIsNoneIsRefusedBeforeAnythingElse) {
  EXPECT_EQ(failure("../name"), "'../name': is no Hub name, expected ORG/NAME or ORG/NAME@REVISION");
  EXPECT_EQ(hub_.requests().size(), 0U);
}

}  // namespace
}  // namespace mamba2
