#include "tests/hub/fake_hub.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "mamba2/hub/digest.h"

namespace mamba2::test {
namespace {

/// Long enough for a loaded machine; only a failing test waits so long.
constexpr std::chrono::seconds patience{30};

constexpr std::string_view api_prefix = "/api/models/org/name/revision/";
constexpr std::string_view resolve_prefix = "/org/name/resolve/";

std::string hash_of(std::string_view content, std::size_t digits) {
  Digest digest(std::string(digits, '0'), content.size());
  digest.update({content.data(), content.size()});
  return digest.finish();
}

Response not_found(const std::string& code) {
  return {.status = 404, .headers = {{"X-Error-Code", code}}, .body = "no"};
}

Response ranged(const Request& request, const std::string& content) {
  const std::string range = request.header("range");
  if (range.empty()) return {.status = 200, .headers = {}, .body = content};
  const std::size_t start = std::stoul(range.substr(std::string("bytes=").size()));
  const std::string size = std::to_string(content.size());
  if (start >= content.size()) return {.status = 416, .headers = {{"Content-Range", "bytes */" + size}}, .body = ""};
  const std::string span = "bytes " + std::to_string(start) + "-" + std::to_string(content.size() - 1) + "/" + size;
  return {.status = 206, .headers = {{"Content-Range", span}}, .body = content.substr(start)};
}

}  // namespace

std::string git_hash(std::string_view content) {
  return hash_of(content, 40);
}
std::string sha256(std::string_view content) {
  return hash_of(content, 64);
}

FakeHub::FakeHub()
    : revisions_{{"main", commit()}, {commit(), commit()}},
      store_([this](const Request& request) { return answer_of_store(request); }),
      hub_([this](const Request& request) { return answer(request); }) {}

void FakeHub::add_file(const std::string& name, const std::string& content) {
  const std::lock_guard lock(mutex_);
  files_[name] = {content, false};
}

void FakeHub::add_large_file(const std::string& name, const std::string& content) {
  const std::lock_guard lock(mutex_);
  files_[name] = {content, true};
}

void FakeHub::remove_file(const std::string& name) {
  const std::lock_guard lock(mutex_);
  files_.erase(name);
}

void FakeHub::add_revision(const std::string& revision, const std::string& commit) {
  const std::lock_guard lock(mutex_);
  revisions_[revision] = commit;
}

void FakeHub::hide_hashes() {
  const std::lock_guard lock(mutex_);
  hides_hashes_ = true;
}

void FakeHub::ignore_ranges() {
  const std::lock_guard lock(mutex_);
  ignores_ranges_ = true;
}

void FakeHub::gather(std::size_t requests) {
  const std::lock_guard lock(mutex_);
  gathers_ = requests;
}

void FakeHub::alter_next(const std::string& target_part, Alter alter) {
  const std::lock_guard lock(mutex_);
  alterations_.emplace_back(target_part, std::move(alter));
}

std::vector<Request> FakeHub::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

std::vector<Request> FakeHub::store_requests() const {
  const std::lock_guard lock(mutex_);
  return store_requests_;
}

std::size_t FakeHub::count(std::string_view target_part) const {
  std::size_t found = 0;
  for (const auto& log : {requests(), store_requests()})
    found += static_cast<std::size_t>(std::count_if(
        log.begin(), log.end(), [&](const Request& r) { return r.target.find(target_part) != std::string::npos; }));
  return found;
}

std::size_t FakeHub::most_at_once() const {
  const std::lock_guard lock(mutex_);
  return most_at_once_;
}

void FakeHub::wait_for(std::string_view target_part) const {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, patience, [&] {
    return std::any_of(requests_.begin(), requests_.end(),
                       [&](const Request& r) { return r.target.find(target_part) != std::string::npos; });
  });
}

void FakeHub::note(std::vector<Request>& log, const Request& request) {
  const std::lock_guard lock(mutex_);
  log.push_back(request);
  changed_.notify_all();
}

Response FakeHub::altered(const Request& request, Response response) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(alterations_.begin(), alterations_.end(), [&](const auto& alteration) {
    return request.target.find(alteration.first) != std::string::npos;
  });
  if (found == alterations_.end()) return response;
  const Alter alter = std::move(found->second);
  alterations_.erase(found);
  alter(response);
  return response;
}

Response FakeHub::answer(const Request& request) {
  note(requests_, request);
  const std::string path = request.target.substr(0, request.target.find('?'));
  Response response = not_found("RepoNotFound");
  if (path.starts_with(api_prefix)) {
    const auto revision = revisions_.find(path.substr(api_prefix.size()));
    response = revision == revisions_.end() ? not_found("RevisionNotFound") : listing(revision->second);
  } else if (path.starts_with(resolve_prefix)) {
    const std::size_t slash = path.find('/', resolve_prefix.size());
    const std::string commit = path.substr(resolve_prefix.size(), slash - resolve_prefix.size());
    response = resolve(request, commit, path.substr(slash + 1));
  }
  return altered(request, std::move(response));
}

Response FakeHub::listing(const std::string& commit) const {
  nlohmann::json siblings = nlohmann::json::array();
  for (const auto& [name, file] : files_) {
    nlohmann::json entry = {{"rfilename", name}};
    if (!hides_hashes_) {
      entry["size"] = file.content.size();
      entry["blobId"] = git_hash(file.content);
      if (file.large) entry["lfs"] = {{"sha256", file.hash()}, {"size", file.content.size()}, {"pointerSize", 130}};
    }
    siblings.push_back(entry);
  }
  const nlohmann::json body = {{"id", "org/name"}, {"sha", commit}, {"private", false}, {"siblings", siblings}};
  return {.status = 200, .headers = {{"Content-Type", "application/json"}}, .body = body.dump()};
}

Response FakeHub::resolve(const Request& request, const std::string& commit, const std::string& name) const {
  const auto found = files_.find(name);
  if (found == files_.end()) return not_found("EntryNotFound");
  const File& file = found->second;
  Response response;
  if (file.large) {
    response.status = 302;
    response.headers = {{"Location", store_.address() + "/store/" + name},
                        {"X-Linked-Etag", "\"" + file.hash() + "\""},
                        {"X-Linked-Size", std::to_string(file.content.size())}};
  } else {
    response = ranged(request, file.content);
    response.headers["ETag"] = "\"" + file.hash() + "\"";
  }
  response.headers["X-Repo-Commit"] = commit;
  return response;
}

Response FakeHub::answer_of_store(const Request& request) {
  note(store_requests_, request);
  {
    std::unique_lock lock(mutex_);
    most_at_once_ = std::max(most_at_once_, ++at_once_);
    changed_.notify_all();
    changed_.wait_for(lock, patience, [&] { return most_at_once_ >= gathers_; });
    --at_once_;
  }
  const auto file = files_.find(request.target.substr(std::string("/store/").size()));
  if (file == files_.end()) return not_found("");
  Response response = ranged(ignores_ranges_ ? Request{} : request, file->second.content);
  response.headers["ETag"] = "\"not-a-hash-of-ours\"";
  return altered(request, std::move(response));
}

}  // namespace mamba2::test
