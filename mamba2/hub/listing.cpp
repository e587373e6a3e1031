#include "mamba2/hub/listing.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"
#include "mamba2/base/json.h"
#include "mamba2/hub/digest.h"
#include "mamba2/hub/http.h"

namespace mamba2 {
namespace {

constexpr std::size_t max_listing_bytes = 32 << 20;
constexpr std::uint64_t max_file_bytes = 1ULL << 50;  // 1 PiB: far from where sums overflow
/// A machine without a network should learn it within seconds.
constexpr int max_listing_retries = 2;

std::uint64_t checked_size(const Json& value, const HubName& name, const std::string& file) {
  require(value.is_number_unsigned() && value.get<std::uint64_t>() <= max_file_bytes,
          "{}: the server gives {} as size of {}, expected bytes up to {}", name.model,
          printable(value.dump(-1, ' ', true, Json::error_handler_t::replace)), printable(file), max_file_bytes);
  return value.get<std::uint64_t>();
}

/// sha256 and size of the stored file where it is in LFS or Xet storage, else those of the git blob.
RemoteFile parse_file(const Json& entry, const HubName& name) {
  const auto file_name = entry.is_object() ? entry.find("rfilename") : entry.end();
  require(entry.is_object() && file_name != entry.end() && file_name->is_string(),
          "{}: the server's list of files has an entry without 'rfilename'", name.model);
  RemoteFile file{.name = file_name->get<std::string>(), .size = 0, .hash = {}};
  require(is_safe_file_name(file.name), "{}: the server lists a file '{}', expected names inside the model's folder",
          name.model, printable(file.name));
  const auto lfs = entry.find("lfs");
  const bool stored_apart = lfs != entry.end() && lfs->is_object();
  const Json& source = stored_apart ? *lfs : entry;
  const auto hash = source.find(stored_apart ? "sha256" : "blobId");
  const auto size = source.find("size");
  if (hash == source.end() || !hash->is_string() || size == source.end()) return file;
  if (!is_file_hash(hash->get_ref<const std::string&>())) return file;
  file.size = checked_size(*size, name, file.name);
  file.hash = hash->get<std::string>();
  return file;
}

/// "W/\"abc\"" and "\"abc\"" are abc.
std::string_view without_quotes(std::string_view etag) {
  if (etag.starts_with("W/")) etag.remove_prefix(2);
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"') etag = etag.substr(1, etag.size() - 2);
  return etag;
}

}  // namespace

const RemoteFile* Listing::find(std::string_view name) const {
  const auto found = std::find_if(files.begin(), files.end(), [&](const RemoteFile& f) { return f.name == name; });
  return found == files.end() ? nullptr : &*found;
}

Listing parse_listing(std::string_view json, const HubName& name) {
  const Json root = parse_json(json, fmt::format("{}: the server's answer", name.model));
  const auto member = [&](const char* key) { return root.is_object() ? root.find(key) : root.end(); };
  const auto sha = member("sha");
  require(sha != root.end() && sha->is_string() && is_commit_hash(sha->get_ref<const std::string&>()),
          "{}: the server's answer has no field 'sha' with a commit's 40 hexadecimal digits", name.model);
  const auto siblings = member("siblings");
  require(siblings != root.end() && siblings->is_array(), "{}: the server's answer has no list 'siblings' of files",
          name.model);
  Listing listing{.commit = sha->get<std::string>(), .files = {}};
  for (const Json& entry : *siblings) listing.files.push_back(parse_file(entry, name));
  return listing;
}

Listing fetch_listing(const HubName& name, const HubOptions& options) {
  HubOptions hasty = options;
  hasty.retries = std::min(options.retries, max_listing_retries);
  const std::string url =
      fmt::format("{}/api/models/{}/revision/{}?blobs=true", options.endpoint, name.model, url_quote(name.revision));
  const HttpSubject subject{name.model, name.revision, ""};
  return parse_listing(fetch(HttpMethod::get, url, subject, hasty, max_listing_bytes).body, name);
}

RemoteFile fetch_file_description(const HubName& name, const std::string& commit, const std::string& file,
                                  const HubOptions& options) {
  const std::string url =
      fmt::format("{}/{}/resolve/{}/{}", options.endpoint, name.model, commit, url_quote(file, "/"));
  const HttpHead head = fetch(HttpMethod::head, url, {name.model, name.revision, file}, options, 0).head;
  const auto field = [&](std::string_view linked, std::string_view plain) {
    return head.field(linked).empty() ? head.field(plain) : head.field(linked);
  };
  RemoteFile description{.name = file, .size = 0, .hash = std::string(without_quotes(field("x-linked-etag", "etag")))};
  require(is_file_hash(description.hash), "{}: {}: the server gives '{}' as ETag, expected a sha256 or a git hash",
          name.model, printable(file), printable(description.hash));
  const std::string_view size = field("x-linked-size", "content-length");
  const auto [end, error] = std::from_chars(size.data(), size.data() + size.size(), description.size);
  require(
      !size.empty() && error == std::errc() && end == size.data() + size.size() && description.size <= max_file_bytes,
      "{}: {}: the server gives '{}' as size, expected bytes up to {}", name.model, printable(file), printable(size),
      max_file_bytes);
  return description;
}

}  // namespace mamba2
