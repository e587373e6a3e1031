#include "mamba2/cpu/isa.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "mamba2/base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace mamba2::cpu {
namespace {

constexpr std::array<std::string_view, 4> names{"portable", "avx2", "avx512", "avx512_vnni"};

std::vector<std::string_view> available_names() {
  std::vector<std::string_view> found;
  for (const Isa isa : available_isas()) found.push_back(name(isa));
  return found;
}

#if defined(__x86_64__)
// Asked of the processor itself: clang 14's __builtin_cpu_supports does not know "f16c".
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

}  // namespace

std::string_view name(Isa isa) {
  return names[static_cast<std::size_t>(isa)];
}

std::vector<Isa> available_isas() {
  std::vector<Isa> found{Isa::portable};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) found.push_back(Isa::avx2);
  if (found.back() == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    found.push_back(Isa::avx512);
  if (found.back() == Isa::avx512 && __builtin_cpu_supports("avx512vnni")) found.push_back(Isa::avx512_vnni);
#endif
  return found;
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
