#include "mamba2/hub/hub.h"

#include <algorithm>
#include <memory>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/log.h"
#include "mamba2/base/progress.h"
#include "mamba2/hub/listing.h"
#include "mamba2/hub/model_files.h"

namespace mamba2 {
namespace {

/// Stands for all tokenizer files where the cache notes that a commit has none.
constexpr std::string_view tokenizer_mark = "tokenizer.json";

RemoteFile described(const Listing& listing, const HubName& name, const std::string& file, const HubOptions& options) {
  const RemoteFile* listed = listing.find(file);
  require(listed != nullptr, "{}: has no file {}, which its index lists", name.model, printable(file));
  return listed->hash.empty() ? fetch_file_description(name, listing.commit, file, options) : *listed;
}

/// What can be chosen by name alone: all but the shards.
std::vector<RemoteFile> first_files(const Listing& listing, const HubName& name, const WeightFile& weights,
                                    const HubOptions& options) {
  std::vector<RemoteFile> chosen;
  for (const RemoteFile& file : listing.files)
    if (is_description_file(file.name) || file.name == weights.name)
      chosen.push_back(described(listing, name, file.name, options));
  return chosen;
}

WeightFile weights_of(const Listing& listing, const HubName& name) {
  require(listing.find("config.json") != nullptr || listing.find("params.json") != nullptr,
          "{}: has neither config.json nor params.json at revision '{}'", name.model, name.revision);
  const auto weights = choose_weights([&](const std::string& file) { return listing.find(file) != nullptr; });
  require(weights.has_value(),
          "{}: has no weights at revision '{}', expected model.safetensors, consolidated.safetensors, "
          "pytorch_model.bin or an index of one of them",
          name.model, name.revision);
  return *weights;
}

/// Fetches what the cache lacks and only then links it, so that a snapshot grows whole.
std::string download_model(const ModelCache& cache, const HubName& name, const HubOptions& options,
                           const HubProgress& progress) {
  const Listing listing = fetch_listing(name, options);
  const WeightFile weights = weights_of(listing, name);
  std::vector<RemoteFile> files = first_files(listing, name, weights, options);
  download_files(cache, name, listing.commit, files, options, progress);
  if (weights.is_index) {
    const auto index =
        std::find_if(files.begin(), files.end(), [&](const RemoteFile& f) { return f.name == weights.name; });
    std::vector<RemoteFile> shards;
    for (const std::string& shard : shards_of_index(cache.blob(index->hash)))
      shards.push_back(described(listing, name, shard, options));
    download_files(cache, name, listing.commit, shards, options, progress);
    files.insert(files.end(), shards.begin(), shards.end());
  }
  for (const RemoteFile& file : files) cache.link(listing.commit, file.name, file.hash);
  if (std::none_of(files.begin(), files.end(), [](const RemoteFile& f) { return is_tokenizer_file(f.name); }))
    cache.mark_absent(listing.commit, tokenizer_mark);
  cache.write_ref(name.revision, listing.commit);
  return cache.snapshot(listing.commit);
}

}  // namespace

std::string resolve_hub_model(std::string_view text, const HubOptions& options, const HubProgress& progress) {
  const HubName name = parse_hub_name(text);
  require(!options.cache_directory.empty(), "{}: no cache directory is set", name.model);
  const ModelCache cache(options.cache_directory, name.model);
  const auto commit = cache.commit_of(name.revision);
  std::string snapshot = commit ? cache.snapshot(*commit) : std::string();
  const std::string missing =
      commit ? missing_from_folder(snapshot).value_or("") : fmt::format("revision '{}'", name.revision);
  const bool whole =
      missing.empty() && (folder_has_tokenizer(snapshot) || cache.is_known_absent(*commit, tokenizer_mark));
  if (whole || (missing.empty() && options.offline)) return snapshot;
  require(!options.offline, "{}: {} is not in the cache {}, and HF_HUB_OFFLINE forbids to download it", name.model,
          printable(missing), options.cache_directory);
  try {
    return download_model(cache, name, options, progress);
  } catch (const Error& error) {
    if (!missing.empty()) throw;
    log_warning("{}: used without a tokenizer, for which the Hub was asked in vain: {}", snapshot, error.what());
    return snapshot;
  }
}

HubProgress download_bar(const HubOptions& options) {
  if (!options.progress_bars) return {};
  // Shared because std::function wants what it holds to be copyable.
  const auto bar = std::make_shared<std::unique_ptr<ProgressBar>>();
  return [bar](std::span<const FileProgress> files) {
    std::uint64_t done = 0, total = 0;
    for (const FileProgress& file : files) {
      done += file.bytes_done;
      total += file.bytes_total;
    }
    if (*bar == nullptr) {
      *bar = std::make_unique<ProgressBar>("downloading", total, ProgressUnit::bytes);
      (*bar)->start_from(done);
    }
    (*bar)->set_total(total);
    (*bar)->update(done);
    if (done == total) bar->reset();
  };
}

}  // namespace mamba2
