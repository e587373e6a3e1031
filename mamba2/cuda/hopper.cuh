// What sm_90a adds below the level of C++: barriers in shared memory that count bytes, bulk tensor copies, descriptors
// of shared memory tiles for the tensor cores, and their ordering.  PTX ISA 8.x names the instructions.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "mamba2/cuda/wgmma.cuh"

namespace mamba2::cuda {

/// Where a shared memory object lies, as instructions take it.
__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- barriers ----

__device__ __forceinline__ void barrier_init(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}

/// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/// Arrives and tells the barrier how many bytes of copies its phase also waits for.
__device__ __forceinline__ void barrier_arrive_expect(std::uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

/// Waits until the phase of this parity has completed.
__device__ __forceinline__ void barrier_wait(std::uint64_t* barrier, int parity) {
  constexpr int longest_sleep = 100000;  // ns before it looks again by itself; completion wakes it
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, %2;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity), "r"(longest_sleep)
      : "memory");
}

/// A barrier of `threads` threads of the block, by number (0 is __syncthreads).
__device__ __forceinline__ void named_barrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/// Moves registers between the warpgroups of a block: each calls one, the sum stays what the launch reserved.
template <int Registers>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

// ---- bulk tensor copies ----

/// Copies the box at (column, row) of a two-dimensional tensor map to shared memory and counts its bytes at the
/// barrier.
__device__ __forceinline__ void copy_box(void* to, const CUtensorMap* map, int column, int row,
                                         std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared_address(to)),
      "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
}

/// Copies bytes, a multiple of 16 as both addresses are, to shared memory and counts them at the barrier.
__device__ __forceinline__ void copy_run(void* to, const void* from, int bytes, std::uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

/// Of what is read once: it leaves the L2 cache first.
__device__ __forceinline__ std::uint64_t evict_first() {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
/// copy_run by a policy of the L2 cache.
__device__ __forceinline__ void copy_run(void* to, const void* from, int bytes, std::uint64_t* barrier,
                                         std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}

/// Brings a box into the L2 cache.
__device__ __forceinline__ void prefetch_box(const CUtensorMap* map, int column, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(map), "r"(column), "r"(row)
               : "memory");
}

/// Copies a box from shared memory to the tensor, rows past the last one left out; part of this thread's bulk group.
__device__ __forceinline__ void store_box(const CUtensorMap* map, int column, int row, const void* from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n"
      "cp.async.bulk.commit_group;" ::"l"(map),
      "r"(column), "r"(row), "r"(shared_address(from))
      : "memory");
}
/// Waits until this thread's stores have read their shared memory.
__device__ __forceinline__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/// Orders this thread's earlier ordinary accesses to shared memory before later ones of tensor cores and copy engine.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- a kernel and the next one in the stream ----

/// The next kernel's blocks may start where there is room.
__device__ __forceinline__ void let_next_kernel_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
/// Waits until the kernel before has finished, its memory written.
__device__ __forceinline__ void wait_for_kernel_before() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// ---- small asynchronous copies ----

/// Copies a float to shared memory, or writes zero where there is none; part of this thread's copy group.
__device__ __forceinline__ void copy_float(float* to, const float* from, bool exists) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(exists ? 4 : 0)
               : "memory");
}
/// Copies 16 bytes past L1; part of this thread's copy group.
__device__ __forceinline__ void copy_vector(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most Pending of this thread's copy groups are unfinished.
template <int Pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// ---- tensor cores ----

/// Panels: 64 elements of 2 bytes a row, rows 128 bytes apart, the 16-byte pieces of a row permuted by its number
/// modulo 8 (CU_TENSOR_MAP_SWIZZLE_128B); 8 rows make an atom of 1024 bytes, to which panels are aligned.
constexpr int panel_row_bytes = 128;
constexpr int panel_atom_bytes = 1024;

/// Descriptor of an operand in panels.  atom_stride: bytes from one group of 8 rows to the next; panel_stride: bytes
/// from one panel to the one with the next 64 columns (read by the _by_columns forms alone).
__device__ __forceinline__ std::uint64_t panel_descriptor(std::uint32_t address, int atom_stride, int panel_stride) {
  constexpr std::uint64_t swizzle_128_bytes = 1ULL << 62;
  return swizzle_128_bytes | static_cast<std::uint64_t>((address & 0x3FFFFU) >> 4) |
         static_cast<std::uint64_t>(panel_stride >> 4) << 16 | static_cast<std::uint64_t>(atom_stride >> 4) << 32;
}

/// The same descriptor, `bytes` further on.
__device__ __forceinline__ std::uint64_t advanced(std::uint64_t descriptor, int bytes) {
  return descriptor + static_cast<std::uint64_t>(bytes >> 4);
}

/// Orders register and shared memory accesses before the warpgroup's next products.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until at most Pending of the committed groups are unfinished.
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// ---- fragments ----

/// Four 8 x 8 matrices of 2-byte elements, transposed, between shared memory and registers: lane l gives the address of
/// row l % 8 of matrix l / 8, register m holds matrix m.
__device__ __forceinline__ void load_transposed(std::uint32_t (&to)[4], std::uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row_address)
               : "memory");
}
__device__ __forceinline__ void store_transposed(std::uint32_t row_address, const std::uint32_t (&from)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address),
               "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
}

/// 2^value, to 2 units in the last place; results below 2^-126 are zero.
__device__ __forceinline__ float exp2_fast(float value) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

}  // namespace mamba2::cuda
