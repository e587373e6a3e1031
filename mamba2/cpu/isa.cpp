#include "mamba2/cpu/isa.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "mamba2/base/error.h"

namespace mamba2::cpu {
namespace {

constexpr std::array<std::string_view, 6> names{"portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"};

std::vector<std::string_view> available_names() {
  std::vector<std::string_view> found;
  for (const Isa isa : available_isas()) found.push_back(name(isa));
  return found;
}

}  // namespace

std::string_view name(Isa isa) {
  return names[static_cast<std::size_t>(isa)];
}

Isa choose_isa() {
  const std::vector<Isa> available = available_isas();
  const char* forced = std::getenv("MAMBA2_ISA");
  if (forced == nullptr || *forced == '\0') return available.back();
  const auto known = std::find(names.begin(), names.end(), std::string_view(forced));
  require(known != names.end(), "MAMBA2_ISA is '{}', expected one of {}", printable(forced), fmt::join(names, ", "));
  const auto wanted = static_cast<Isa>(known - names.begin());
  require(std::find(available.begin(), available.end(), wanted) != available.end(),
          "MAMBA2_ISA is '{}', which this processor lacks; it has {}", forced, fmt::join(available_names(), ", "));
  return wanted;
}

}  // namespace mamba2::cpu
