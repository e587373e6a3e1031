#include <mamba2/base/json.h>
#include <mamba2/tensor/tensor.h>

#include <cstdio>
#include <nlohmann/json.hpp>

int main() {
  const mamba2::Json config = mamba2::read_json_file(MODELS "/classics-5m/config.json");
  const mamba2::Shape shape{config.at("num_hidden_layers"), config.at("hidden_size")};
  std::puts(mamba2::to_string(shape).c_str());
}
