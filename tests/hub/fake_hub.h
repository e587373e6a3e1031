#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/hub/http_server.h"

namespace mamba2::test {

/// The hash that the Hub names content by.
std::string git_hash(std::string_view content);
std::string sha256(std::string_view content);

/// One model, org/name, served as the Hub serves it: its API's listing; small files from the endpoint itself; large
/// ones (LFS) by a redirect to a second server with an origin of its own, the store.
class FakeHub {
 public:
  using Alter = std::function<void(Response&)>;

  FakeHub();

  std::string endpoint() const { return hub_.address(); }
  std::string commit() const { return std::string(40, 'c'); }

  // To be called while no request is under way:
  void add_file(const std::string& name, const std::string& content);
  void add_large_file(const std::string& name, const std::string& content);
  void remove_file(const std::string& name);
  /// The commit for requests of that revision; main and commit() are known.
  void add_revision(const std::string& revision, const std::string& commit);
  /// Leaves sizes and hashes out of the listing, as plain mirrors do.
  void hide_hashes();
  /// The store answers requests for ranges with the whole.
  void ignore_ranges();
  /// Lets answers for large files start only once so many were asked for at the same time.
  void gather(std::size_t requests);

  /// The next answer whose target contains the text is altered, once.
  void alter_next(const std::string& target_part, Alter alter);

  std::vector<Request> requests() const;
  std::vector<Request> store_requests() const;
  /// How many requests, of both servers, have a target that contains the text.
  std::size_t count(std::string_view target_part) const;
  std::size_t most_at_once() const;
  /// Blocks until a request's target contains the text.
  void wait_for(std::string_view target_part) const;

 private:
  struct File {
    std::string content;
    bool large = false;
    std::string hash() const { return large ? sha256(content) : git_hash(content); }
  };

  Response answer(const Request& request);
  Response answer_of_store(const Request& request);
  Response listing(const std::string& commit) const;
  Response resolve(const Request& request, const std::string& commit, const std::string& name) const;
  Response altered(const Request& request, Response response);
  void note(std::vector<Request>& log, const Request& request);

  // Written under the mutex; requests read it without, after they took the mutex once.
  std::map<std::string, File> files_;
  std::map<std::string, std::string> revisions_;
  bool hides_hashes_ = false;
  bool ignores_ranges_ = false;
  std::size_t gathers_ = 0;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<std::pair<std::string, Alter>> alterations_;  // this and what follows: under mutex_
  std::vector<Request> requests_, store_requests_;
  std::size_t at_once_ = 0, most_at_once_ = 0;

  HttpServer store_;
  HttpServer hub_;
};

}  // namespace mamba2::test
