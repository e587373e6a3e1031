// What an x86-64 processor runs, and the kernels for it; other_processors.cpp stands in for this file elsewhere.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mamba2/cpu/isa.h"
#include "mamba2/cpu/kernels.h"
#include "mamba2/cpu/quantized_kernels.h"

namespace mamba2::cpu {
namespace {

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

}  // namespace

std::vector<Isa> available_isas() {
  std::vector<Isa> found{Isa::portable};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) found.push_back(Isa::avx2);
  if (found.back() == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    found.push_back(Isa::avx512);
  if (found.back() == Isa::avx512 && __builtin_cpu_supports("avx512vnni")) found.push_back(Isa::avx512_vnni);
  if (found.back() == Isa::avx512_vnni && has_avx512_bf16()) found.push_back(Isa::avx512_bf16);
  if (found.back() == Isa::avx512_bf16 && has_amx()) found.push_back(Isa::amx);
  return found;
}

Kernels kernels_for(Isa isa) {
  switch (isa) {
    case Isa::amx: return amx::kernels();
    case Isa::avx512_bf16: return avx512_bf16::kernels();
    case Isa::avx512_vnni: return avx512_vnni::kernels();
    case Isa::avx512: return avx512::kernels();
    case Isa::avx2: return avx2::kernels();
    case Isa::portable: break;
  }
  return portable::kernels();
}

QuantizedKernels quantized_kernels_for(Isa isa, DType dtype) {
  if (isa >= Isa::avx512_vnni) return avx512_vnni::quantized_kernels(dtype);
  if (isa == Isa::avx512) return avx512::quantized_kernels(dtype);
  if (isa == Isa::avx2) return avx2::quantized_kernels(dtype);
  return portable::quantized_kernels(dtype);
}

}  // namespace mamba2::cpu
