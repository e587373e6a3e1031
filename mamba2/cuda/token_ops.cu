// Embedding rows and dt: an element a thread.  Both move little next to the layers' products, so there is nothing to
// tune beyond coalesced rows.
#include "mamba2/cuda/activation.cuh"
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/token_ops.h"

namespace mamba2::cuda {
namespace {

constexpr int block_threads = 256;

template <class T, class Out>
__global__ void __launch_bounds__(block_threads) embedding_kernel(const Embedding op) {
  const std::int64_t t = blockIdx.x;
  const std::int64_t id = op.ids[t];
  const T* from = static_cast<const T*>(op.table.data) + id * op.table.stride;
  Out* to = static_cast<Out*>(op.out.data) + t * op.out.stride;
  const bool exists = 0 <= id && id < op.vocab_size;
  for (int i = static_cast<int>(threadIdx.x); i < op.width; i += block_threads)
    to[i] = rounded<Out>(exists ? as_float(from[i]) : not_a_number());
}

template <class T>
__global__ void __launch_bounds__(block_threads) softplus_dt_kernel(const SoftplusDt op) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  wait_for_previous();
  if (i >= op.tokens * op.num_heads) return;
  const std::int64_t t = i / op.num_heads;
  const int h = static_cast<int>(i % op.num_heads);
  const float raw = as_float(static_cast<const T*>(op.dt_raw.data)[t * op.dt_raw.stride + h]);
  op.dt[t * op.dt_stride + h] = fminf(fmaxf(softplus(raw + op.bias[h]), op.dt_min), op.dt_max);
}

}  // namespace

void embedding(const Embedding& op, cudaStream_t stream) {
  if (op.tokens == 0) return;
  with_element_type(op.dtype, "embedding", [&](auto element) {
    with_element_type(op.out_dtype, "embedding out", [&](auto out) {
      embedding_kernel<typename decltype(element)::type, typename decltype(out)::type>
          <<<static_cast<unsigned>(op.tokens), block_threads, 0, stream>>>(op);
    });
  });
  check_launch("embedding");
}

void softplus_dt(const SoftplusDt& op, cudaStream_t stream) {
  const std::int64_t elements = op.tokens * op.num_heads;
  if (elements == 0) return;
  with_element_type(op.dtype, "softplus_dt", [&](auto element) {
    launch_early(softplus_dt_kernel<typename decltype(element)::type>, op,
                 dim3(static_cast<unsigned>((elements + block_threads - 1) / block_threads)), block_threads,
                 "softplus_dt", stream);
  });
}

}  // namespace mamba2::cuda
