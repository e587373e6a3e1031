#include "mamba2/cpu/isa.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "mamba2/base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mamba2::cpu {
namespace {

constexpr std::array<std::string_view, 6> names{"portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"};

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

bool has_avx512_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & bit_AVX512BF16) != 0;
}

/// The processor has it, the operating system saves its registers, and lets this process use them: Linux wants to be
/// asked first, since they make every thread's state larger (Documentation/x86/xstate.rst).
bool has_amx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned amx_bf16 = 1U << 22, amx_tile = 1U << 24;  // clang 14's cpuid.h has no names for them
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & amx_tile) == 0 || (edx & amx_bf16) == 0)
    return false;
  unsigned enabled = 0, upper = 0;
  asm volatile("xgetbv" : "=a"(enabled), "=d"(upper) : "c"(0));
  constexpr unsigned tile_config_and_data = 3U << 17;
  if ((enabled & tile_config_and_data) != tile_config_and_data) return false;
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
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
  if (found.back() == Isa::avx512_vnni && has_avx512_bf16()) found.push_back(Isa::avx512_bf16);
  if (found.back() == Isa::avx512_bf16 && has_amx()) found.push_back(Isa::amx);
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
