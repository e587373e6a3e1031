#include "mamba2/hub/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

constexpr std::size_t sha256_digits = 64, sha1_digits = 40;

EVP_MD_CTX* as_context(void* context) {
  return static_cast<EVP_MD_CTX*>(context);
}

}  // namespace

bool is_file_hash(std::string_view text) {
  return (text.size() == sha256_digits || text.size() == sha1_digits) &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

void Digest::Free::operator()(void* context) const {
  EVP_MD_CTX_free(as_context(context));
}

Digest::Digest(std::string_view expected, std::uint64_t size) : context_(EVP_MD_CTX_new()) {
  const bool git_blob = expected.size() == sha1_digits;
  const bool ready =
      context_ && EVP_DigestInit_ex(as_context(context_.get()), git_blob ? EVP_sha1() : EVP_sha256(), nullptr) == 1;
  require(ready, "OpenSSL offers no {}", git_blob ? "SHA-1" : "SHA-256");
  if (!git_blob) return;
  const std::string header = fmt::format("blob {}", size);
  update({header.c_str(), header.size() + 1});  // the 0 at the end is hashed too
}

void Digest::update(std::span<const char> bytes) {
  require(EVP_DigestUpdate(as_context(context_.get()), bytes.data(), bytes.size()) == 1, "OpenSSL can't hash");
}

std::string Digest::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
  unsigned length = 0;
  require(EVP_DigestFinal_ex(as_context(context_.get()), bytes.data(), &length) == 1, "OpenSSL can't hash");
  std::string digits;
  for (unsigned i = 0; i < length; ++i) digits += fmt::format("{:02x}", bytes[i]);
  return digits;
}

}  // namespace mamba2
