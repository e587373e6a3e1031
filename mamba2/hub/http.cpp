#include "mamba2/hub/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <thread>

#include "mamba2/base/error.h"
#include "mamba2/base/log.h"

namespace mamba2 {
namespace {

constexpr int max_redirects = 10;
constexpr std::chrono::milliseconds max_wait{60'000};
constexpr std::size_t max_header_bytes = 256 << 10;
constexpr long receive_buffer_bytes = 512 << 10;

struct FreeUrl {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};

/// "scheme://host:port" in lower case, port always given; empty for what is no URL.
std::string origin_of(const std::string& url) {
  const std::unique_ptr<CURLU, FreeUrl> parsed(curl_url());
  if (!parsed || curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return {};
  std::string origin;
  for (const CURLUPart part : {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT}) {
    char* text = nullptr;
    if (curl_url_get(parsed.get(), part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return {};
    origin += std::string(text) + (part == CURLUPART_SCHEME ? "://" : part == CURLUPART_HOST ? ":" : "");
    curl_free(text);
  }
  std::transform(origin.begin(), origin.end(), origin.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return origin;
}

bool is_broken_connection(CURLcode code) {
  constexpr std::array broken = {
      CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_RESOLVE_PROXY, CURLE_COULDNT_CONNECT, CURLE_OPERATION_TIMEDOUT,
      CURLE_PARTIAL_FILE,         CURLE_GOT_NOTHING,           CURLE_SEND_ERROR,      CURLE_RECV_ERROR,
      CURLE_SSL_CONNECT_ERROR,    CURLE_WEIRD_SERVER_REPLY};
  return std::find(broken.begin(), broken.end(), code) != broken.end();
}

bool is_passing_status(long status) {
  constexpr std::array<long, 6> passing = {408, 429, 500, 502, 503, 504};
  return std::find(passing.begin(), passing.end(), status) != passing.end();
}

bool is_redirect(long status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blank = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(blank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(blank) - begin + 1);
}

/// libcurl's global state is made once and stays for the process's life.
void start_libcurl() {
  static const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
  require(code == CURLE_OK, "libcurl can't start: {}", curl_easy_strerror(code));
}

class BodyInMemory : public HttpReceiver {
 public:
  BodyInMemory(HttpResponse& response, std::string url, std::size_t max_bytes)
      : response_(response), url_(std::move(url)), max_bytes_(max_bytes) {}

  void on_head(const HttpHead& head) override {
    response_.head = head;
    response_.body.clear();
  }
  void on_body(std::string_view bytes) override {
    require(response_.body.size() + bytes.size() <= max_bytes_, "{}: answers more than {} bytes", url_, max_bytes_);
    response_.body += bytes;
  }

 private:
  HttpResponse& response_;
  std::string url_;
  std::size_t max_bytes_;
};

}  // namespace

struct HttpRequest::Curl {
  CURL* easy = curl_easy_init();
  curl_slist* headers = nullptr;
  std::array<char, CURL_ERROR_SIZE> error{};

  Curl() { require(easy != nullptr, "libcurl can't start a transfer"); }
  Curl(const Curl&) = delete;
  Curl& operator=(const Curl&) = delete;
  ~Curl() {
    curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
  }

  template <class Value>
  void set(CURLoption option, Value value) {
    const CURLcode code = curl_easy_setopt(easy, option, value);
    require(code == CURLE_OK, "libcurl refuses option {}: {}", static_cast<int>(option), curl_easy_strerror(code));
  }

  void add_header(const std::string& line) {
    curl_slist* longer = curl_slist_append(headers, line.c_str());
    require(longer != nullptr, "libcurl can't take a header");
    headers = longer;
  }
};

std::string_view HttpHead::field(std::string_view name) const {
  for (const auto& [field_name, value] : fields)
    if (field_name == name) return value;
  return {};
}

HttpRequest::HttpRequest(HttpMethod method, std::string url, HttpSubject subject, const HubOptions& options,
                         HttpReceiver& receiver)
    : method_(method),
      first_url_(std::move(url)),
      url_(first_url_),
      subject_(std::move(subject)),
      options_(options),
      receiver_(receiver) {
  start_libcurl();
  curl_ = std::make_unique<Curl>();
  Curl& c = *curl_;
  c.set(CURLOPT_ERRORBUFFER, c.error.data());
  c.set(CURLOPT_NOSIGNAL, 1L);
  c.set(CURLOPT_USERAGENT, "mamba2");
  c.set(CURLOPT_PROTOCOLS_STR, options.endpoint.starts_with("https://") ? "https" : "http,https");
  c.set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));  // a connection of its own for each file
  c.set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  c.set(CURLOPT_CONNECTTIMEOUT, static_cast<long>(options.connect_timeout.count()));
  c.set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  c.set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(options.stall_timeout.count()));
  c.set(CURLOPT_BUFFERSIZE, receive_buffer_bytes);
  if (!options.ca_file.empty()) c.set(CURLOPT_CAINFO, options.ca_file.c_str());
  c.set(CURLOPT_HEADERFUNCTION, &HttpRequest::take_header);
  c.set(CURLOPT_HEADERDATA, static_cast<void*>(this));
  c.set(CURLOPT_WRITEFUNCTION, &HttpRequest::take_body);
  c.set(CURLOPT_WRITEDATA, static_cast<void*>(this));
  if (method == HttpMethod::head) c.set(CURLOPT_NOBODY, 1L);
}

HttpRequest::~HttpRequest() = default;

CURL* HttpRequest::handle() const {
  return curl_->easy;
}

void HttpRequest::prepare(std::uint64_t offset) {
  head_ = {};
  head_given_ = false;
  thrown_ = nullptr;
  curl_->error[0] = '\0';
  curl_->set(CURLOPT_URL, url_.c_str());
  curl_slist_free_all(std::exchange(curl_->headers, nullptr));
  curl_->add_header("Accept-Encoding: identity");
  if (offset > 0) curl_->add_header(fmt::format("Range: bytes={}-", offset));
  if (!options_.token.empty() && !origin_of(url_).empty() && origin_of(url_) == origin_of(options_.endpoint))
    curl_->add_header("Authorization: Bearer " + options_.token);
  curl_->set(CURLOPT_HTTPHEADER, curl_->headers);
}

std::size_t HttpRequest::take_header(char* data, std::size_t size, std::size_t count, void* self) {
  auto& request = *static_cast<HttpRequest*>(self);
  try {
    request.add_header_line({data, size * count});
    return size * count;
  } catch (...) {
    request.thrown_ = std::current_exception();
    return 0;
  }
}

std::size_t HttpRequest::take_body(char* data, std::size_t size, std::size_t count, void* self) {
  auto& request = *static_cast<HttpRequest*>(self);
  try {
    request.add_body({data, size * count});
    return size * count;
  } catch (...) {
    request.thrown_ = std::current_exception();
    return 0;
  }
}

void HttpRequest::add_header_line(std::string_view line) {
  if (head_given_) return;          // a trailer
  if (line.starts_with("HTTP/")) {  // a new response: what came before was an interim one or a proxy's
    head_ = {};
    return;
  }
  const std::size_t colon = line.find(':');
  if (colon != std::string_view::npos) {
    std::string name(trimmed(line.substr(0, colon)));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    head_.fields.emplace_back(std::move(name), trimmed(line.substr(colon + 1)));
    std::size_t total = 0;
    for (const auto& [field, value] : head_.fields) total += field.size() + value.size();
    require(total <= max_header_bytes, "{}: the server's answer has more than {} bytes of header fields",
            subject_text(), max_header_bytes);
    return;
  }
  if (!trimmed(line).empty()) return;
  curl_easy_getinfo(curl_->easy, CURLINFO_RESPONSE_CODE, &head_.status);
  if (head_.status >= 200 && head_.status < 300) {
    receiver_.on_head(head_);
    head_given_ = true;
  }
}

void HttpRequest::add_body(std::string_view bytes) {
  if (head_given_) receiver_.on_body(bytes);
}

std::string HttpRequest::subject_text() const {
  return subject_.file.empty() ? subject_.model : fmt::format("{}: {}", subject_.model, printable(subject_.file));
}

HttpRequest::Next HttpRequest::finish(int code) {
  if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
  const auto curl_code = static_cast<CURLcode>(code);
  if (curl_code != CURLE_OK) {
    const char* detail = curl_->error[0] != '\0' ? curl_->error.data() : curl_easy_strerror(curl_code);
    if (is_broken_connection(curl_code)) return retry(printable(detail));
    fail("{}: can't be fetched from {}: {}", subject_text(), origin_of(url_), printable(detail));
  }
  if (is_redirect(head_.status)) {
    // The Hub describes a large file in the answer that points to where it is stored.
    if (method_ == HttpMethod::get || head_.field("x-linked-etag").empty()) return follow_redirect();
    receiver_.on_head(head_);
    return Next::done;
  }
  if (is_passing_status(head_.status)) return retry(fmt::format("the server answers {}", head_.status));
  if (!head_given_) fail_for_status();
  return Next::done;
}

HttpRequest::Next HttpRequest::retry(const std::string& reason) {
  if (++failures_ > options_.retries)
    fail("{}: can't be fetched from {} after {} {}: {}", subject_text(), origin_of(url_), failures_,
         failures_ == 1 ? "try" : "tries", reason);
  url_ = first_url_;  // an address from a redirect may be signed for a short time
  redirects_ = 0;
  wait_ = options_.retry_wait * (1LL << std::min(failures_ - 1, 16));
  curl_off_t asked_for_seconds = 0;
  if (curl_easy_getinfo(curl_->easy, CURLINFO_RETRY_AFTER, &asked_for_seconds) == CURLE_OK && asked_for_seconds > 0)
    wait_ = std::max(wait_, std::chrono::milliseconds(std::min<long long>(asked_for_seconds, 3600) * 1000));
  wait_ = std::min(wait_, max_wait);
  log_info("{}: {}; trying again in {} ms", subject_text(), reason, wait_.count());
  return Next::after_wait;
}

HttpRequest::Next HttpRequest::follow_redirect() {
  require(++redirects_ <= max_redirects, "{}: more than {} redirects from {}", subject_text(), max_redirects,
          first_url_);
  char* target = nullptr;
  curl_easy_getinfo(curl_->easy, CURLINFO_REDIRECT_URL, &target);
  require(target != nullptr, "{}: the server answers {} without an address to go to", subject_text(), head_.status);
  const std::string next = target;
  const bool downgrade = options_.endpoint.starts_with("https://") && !next.starts_with("https://");
  require(!downgrade, "{}: is redirected from https to {}, which is refused", subject_text(), printable(next));
  url_ = next;
  return Next::now;
}

void HttpRequest::fail_for_status() const {
  if (origin_of(url_) != origin_of(options_.endpoint))  // where the Hub redirected to: no token plays a part
    fail("{}: {} answers {}", subject_text(), origin_of(url_), head_.status);
  const std::string& model = subject_.model;
  const std::string_view code = head_.field("x-error-code");
  const bool has_token = !options_.token.empty();
  const std::string_view token_advice =
      has_token ? "the token in use (HF_TOKEN) gives no access" : "set HF_TOKEN to a token that has access";
  if (code == "GatedRepo")
    fail("{}: is gated: accept its terms at {}/{}, and {}", model, options_.endpoint, model,
         has_token ? "use a token (HF_TOKEN) of that account" : "set HF_TOKEN to a token of that account");
  if (code == "RevisionNotFound")
    fail("{}: has no revision '{}' at {}", model, printable(subject_.revision), options_.endpoint);
  if (head_.status == 401 || code == "RepoNotFound")
    fail("{}: there is no such model at {}, or it is private or gated: check the name; {}", model, options_.endpoint,
         token_advice);
  if (head_.status == 403)
    fail("{}: {} refuses access (403 {}); {}", subject_text(), options_.endpoint,
         printable(head_.field("x-error-message")), token_advice);
  if (head_.status == 404)
    fail("{}: not found at {} (revision '{}')", subject_text(), options_.endpoint, printable(subject_.revision));
  fail("{}: {} answers {} {}", subject_text(), origin_of(url_), head_.status,
       printable(head_.field("x-error-message")));
}

HttpResponse fetch(HttpMethod method, const std::string& url, const HttpSubject& subject, const HubOptions& options,
                   std::size_t max_bytes) {
  HttpResponse response;
  BodyInMemory receiver(response, url, max_bytes);
  HttpRequest request(method, url, subject, options, receiver);
  for (;;) {
    request.prepare(0);
    const auto next = request.finish(curl_easy_perform(request.handle()));
    if (next == HttpRequest::Next::done) return response;
    if (next == HttpRequest::Next::after_wait) std::this_thread::sleep_for(request.wait());
  }
}

std::string url_quote(std::string_view text, std::string_view keep) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                       c == '_' || c == '.' || c == '~' || keep.find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace mamba2
