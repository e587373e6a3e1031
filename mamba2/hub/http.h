#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mamba2/hub/options.h"

using CURL = void;  // as curl.h has it

namespace mamba2 {

/// A response's status and header fields (names in lower case).
struct HttpHead {
  long status = 0;
  std::vector<std::pair<std::string, std::string>> fields;

  /// The field's value, empty where it is absent.
  std::string_view field(std::string_view name) const;
};

/// What a request is about, for messages.
struct HttpSubject {
  std::string model;     // ORG/NAME
  std::string revision;  // as asked for
  std::string file;      // empty: the model itself
};

/// Takes a successful response.  What the functions throw ends the request and comes out of HttpRequest::finish().
class HttpReceiver {
 public:
  virtual ~HttpReceiver() = default;
  virtual void on_head(const HttpHead& head) = 0;
  virtual void on_body(std::string_view bytes) = 0;
};

enum class HttpMethod { get, head };

/// One request on a libcurl easy handle with all its redirects and repetitions.  The token goes to the endpoint's
/// origin (scheme, host, port) and nowhere else; from an https endpoint only https is followed.  Bodies of redirects
/// and errors are dropped.
///
/// Use: prepare(), let libcurl perform handle(), finish(); as long as that says so, the same again.
class HttpRequest {
 public:
  enum class Next { done, now, after_wait };

  HttpRequest(HttpMethod method, std::string url, HttpSubject subject, const HubOptions& options,
              HttpReceiver& receiver);
  HttpRequest(const HttpRequest&) = delete;
  HttpRequest& operator=(const HttpRequest&) = delete;
  ~HttpRequest();

  /// Sets the handle up for the next attempt, which asks for the bytes from offset on.
  void prepare(std::uint64_t offset);
  CURL* handle() const;
  /// Takes what libcurl said of the attempt (a CURLcode).  Throws Error, one line that names the subject, where the
  /// server refuses, the tries are used up or the receiver threw.
  Next finish(int code);
  /// Counts the attempt as failed for the reason given: after_wait, or Error where the tries are used up.
  Next retry(const std::string& reason);
  /// How long to wait before the next attempt.
  std::chrono::milliseconds wait() const { return wait_; }
  /// New bytes came: the count of tries starts again.
  void note_progress() { failures_ = 0; }

 private:
  static std::size_t take_header(char* data, std::size_t size, std::size_t count, void* self);
  static std::size_t take_body(char* data, std::size_t size, std::size_t count, void* self);
  void add_header_line(std::string_view line);
  void add_body(std::string_view bytes);
  Next follow_redirect();
  [[noreturn]] void fail_for_status() const;
  std::string subject_text() const;

  struct Curl;
  std::unique_ptr<Curl> curl_;
  HttpMethod method_;
  std::string first_url_;
  std::string url_;
  HttpSubject subject_;
  const HubOptions& options_;
  HttpReceiver& receiver_;
  HttpHead head_;
  std::exception_ptr thrown_;
  bool head_given_ = false;
  int redirects_ = 0;
  int failures_ = 0;
  std::chrono::milliseconds wait_{0};
};

/// The whole of a small resource, at most max_bytes.
struct HttpResponse {
  HttpHead head;
  std::string body;
};
HttpResponse fetch(HttpMethod method, const std::string& url, const HttpSubject& subject, const HubOptions& options,
                   std::size_t max_bytes);

/// Percent-encodes all but A-Z a-z 0-9 - _ . ~ and the characters in keep.
std::string url_quote(std::string_view text, std::string_view keep = "");

}  // namespace mamba2
