#include <algorithm>

#include "mamba2/base/error.h"
#include "mamba2/base/parallel.h"
#include "mamba2/cpu/cpu_backend.h"
#include "mamba2/cuda/cuda_backend.h"
#include "mamba2/ops/backend.h"
#include "mamba2/ops/thread_communicator.h"
#include "mamba2/reference/reference_backend.h"

namespace mamba2 {

std::unique_ptr<Backend> make_backend(const DeviceOptions& options) {
  if (options.device == "reference") return make_reference_backend();
  if (options.device == "auto" || options.device == "cpu")
    return options.deterministic
               ? make_cpu_backend(options.threads, cpu::ScanForm::sequential, cpu::Bf16Products::always)
               : make_cpu_backend(options.threads);
  if (options.device == "cuda")
    return make_cuda_backend(options.deterministic ? cuda::Precision::exact : cuda::Precision::fast);
  fail("device is '{}', expected auto, reference, cpu or cuda", printable(options.device));
}

std::vector<std::unique_ptr<Backend>> make_backends(const DeviceOptions& options, int ranks) {
  require(ranks >= 1, "{} ranks were asked for, expected 1 or more", ranks);
  std::vector<std::unique_ptr<Backend>> backends;
  if (ranks == 1) {
    backends.push_back(make_backend(options));
    return backends;
  }
  if (options.device == "cuda")
    return make_cuda_backends(options.deterministic ? cuda::Precision::exact : cuda::Precision::fast, ranks);
  DeviceOptions of_rank = options;
  const int threads = options.threads > 0 ? options.threads : available_processors();
  of_rank.threads = std::max(1, threads / ranks);
  for (std::unique_ptr<Communicator>& communicator : make_thread_communicators(ranks)) {
    backends.push_back(make_backend(of_rank));
    backends.back()->join(std::move(communicator));
  }
  return backends;
}

}  // namespace mamba2
