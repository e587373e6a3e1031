#include "tests/hub/hub_fixture.h"

#include <cstdlib>
#include <fstream>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"

namespace mamba2::test {

namespace fs = std::filesystem;

void HubFixture::SetUpTestSuite() {
  ::setenv("no_proxy", "127.0.0.1", 1);  // a proxy of the machine must not come between the tests and their server
}

void HubFixture::SetUp() {
  options_.cache_directory = folder_ / "hub";
  options_.endpoint = hub_.endpoint();
  options_.retry_wait = std::chrono::milliseconds(1);
  hub_.add_file("config.json", R"({"model_type": "mamba2"})");
  hub_.add_file("tokenizer.json", "{}");
  hub_.add_large_file("model.safetensors", weights_);
}

std::string HubFixture::failure(const std::string& name) const {
  try {
    resolve(name);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

std::set<std::string> HubFixture::files_in(const std::string& folder) {
  std::set<std::string> names;
  if (!fs::exists(folder)) return names;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_symlink() || !entry.is_directory())
      names.insert(fs::relative(entry.path().parent_path(), folder) / entry.path().filename());
  std::set<std::string> plain;
  for (const std::string& name : names) plain.insert(fs::path(name).lexically_normal().string());
  return plain;
}

std::string HubFixture::content_of(const std::string& path) {
  return read_file(path);
}

void HubFixture::write(const std::string& path, const std::string& content) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

}  // namespace mamba2::test
