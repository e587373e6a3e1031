#include "mamba2/cuda/memory.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "mamba2/base/error.h"
#include "mamba2/cuda/check.h"

namespace mamba2::cuda {
namespace {

constexpr std::size_t staging_bytes = std::size_t{4} << 20;
constexpr std::size_t most_staged = std::size_t{256} << 10;
constexpr std::size_t step = 256;

cudaMemPool_t pool() {
  int device = 0;
  check(cudaGetDevice(&device), "find the current device");
  cudaMemPool_t found = nullptr;
  check(cudaDeviceGetDefaultMemPool(&found, device), "find the device's memory pool");
  return found;
}

/// Copies tensors of equal shape, the innermost dimensions at once.
void transfer(const Tensor& from, const Tensor& to, cudaMemcpyKind kind, cudaStream_t stream) {
  require(from.shape == to.shape && from.dtype == to.dtype, "copy of {} {} to {} {}", name(from.dtype),
          to_string(from.shape), name(to.dtype), to_string(to.shape));
  if (from.elements() == 0) return;
  if (from.contiguous() && to.contiguous()) {
    check(cudaMemcpyAsync(to.data, from.data, from.bytes(), kind, stream), "copy");
    return;
  }
  if (from[0].contiguous() && to[0].contiguous()) {
    const std::size_t width = from[0].bytes(), element = element_size(from.dtype);
    const std::size_t from_pitch = static_cast<std::size_t>(from.stride(0)) * element;
    const std::size_t to_pitch = static_cast<std::size_t>(to.stride(0)) * element;
    if (from_pitch >= width && to_pitch >= width) {
      check(cudaMemcpy2DAsync(to.data, to_pitch, from.data, from_pitch, width, static_cast<std::size_t>(from.size(0)),
                              kind, stream),
            "copy of rows");
      return;
    }
  }
  for (std::int64_t i = 0; i < from.size(0); ++i) transfer(from[i], to[i], kind, stream);
}

}  // namespace

Memory::Memory() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream");
  // Memory once taken stays in the pool: the next prompt takes it again.
  std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();
  check(cudaMemPoolSetAttribute(pool(), cudaMemPoolAttrReleaseThreshold, &keep), "set up the memory pool");
  void* pinned = nullptr;
  check(cudaMallocHost(&pinned, staging_bytes), "pinned memory for uploads");
  staging_ = static_cast<std::byte*>(pinned);
}

Memory::~Memory() {
  (void)cudaStreamSynchronize(stream_);
  spare_.insert(spare_.end(), downloads_.begin(), downloads_.end());
  for (const Download& download : spare_) {
    (void)cudaEventDestroy(download.done);
    (void)cudaFreeHost(download.pinned);
  }
  (void)cudaFreeHost(staging_);
  (void)cudaStreamDestroy(stream_);
  (void)cudaGetLastError();
}

void* Memory::allocate(std::size_t bytes) {
  void* memory = nullptr;
  const std::size_t wanted = std::max<std::size_t>(bytes, step);
  cudaError_t status = cudaMallocAsync(&memory, wanted, stream_);
  if (status == cudaErrorMemoryAllocation) {
    // What the pool holds in pieces of other sizes goes back first.
    (void)cudaGetLastError();
    finish();
    check(cudaMemPoolTrimTo(pool(), 0), "give memory back");
    status = cudaMallocAsync(&memory, wanted, stream_);
  }
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "ask for free memory");
    fail("out of memory on the GPU: {} bytes are wanted, {} of {} are free", bytes, free, total);
  }
  check(status, "allocate");
  return memory;
}

void Memory::free(void* memory) noexcept {
  if (cudaFreeAsync(memory, stream_) != cudaSuccess) (void)cudaGetLastError();
}

std::size_t Memory::free_bytes() {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "ask for free memory");
  std::uint64_t reserved = 0, used = 0;
  check(cudaMemPoolGetAttribute(pool(), cudaMemPoolAttrReservedMemCurrent, &reserved), "ask the memory pool");
  check(cudaMemPoolGetAttribute(pool(), cudaMemPoolAttrUsedMemCurrent, &used), "ask the memory pool");
  return free + (reserved - std::min(used, reserved));
}

bool Memory::stage(const Tensor& host, const Tensor& device) {
  if (host.elements() == 0 || !host.contiguous() || !device.contiguous() || host.bytes() > most_staged) return false;
  if (staged_ + host.bytes() > staging_bytes) {
    finish();
    staged_ = 0;
  }
  std::byte* const place = staging_ + staged_;
  std::memcpy(place, host.data, host.bytes());
  staged_ += (host.bytes() + step - 1) / step * step;
  check(cudaMemcpyAsync(device.data, place, host.bytes(), cudaMemcpyHostToDevice, stream_), "upload");
  return true;
}

void Memory::from_host(const Tensor& host, const Tensor& device) {
  require(host.shape == device.shape && host.dtype == device.dtype, "upload of {} {} to {} {}", name(host.dtype),
          to_string(host.shape), name(device.dtype), to_string(device.shape));
  if (stage(host, device)) return;
  transfer(host, device, cudaMemcpyHostToDevice, stream_);
  finish();
}

void Memory::to_host(const Tensor& device, const Tensor& host) {
  transfer(device, host, cudaMemcpyDeviceToHost, stream_);
  finish();
}

Memory::Download Memory::spare_download(std::size_t bytes) {
  constexpr std::size_t least = std::size_t{4} << 10;
  Download download;
  if (!spare_.empty()) {
    download = spare_.back();
    spare_.pop_back();
  } else {
    check(cudaEventCreateWithFlags(&download.done, cudaEventDisableTiming), "make an event");
  }
  if (download.bytes < bytes) {
    (void)cudaFreeHost(download.pinned);
    download.pinned = nullptr;
    download.bytes = std::max(bytes, least);
    check(cudaMallocHost(&download.pinned, download.bytes), "pinned memory for a download");
  }
  return download;
}

void Memory::start_to_host(const Tensor& device) {
  require(device.contiguous(), "a download in parts has gaps");
  const Download download = spare_download(device.bytes());
  downloads_.push_back(download);
  check(cudaMemcpyAsync(download.pinned, device.data, device.bytes(), cudaMemcpyDeviceToHost, stream_), "download");
  check(cudaEventRecord(download.done, stream_), "mark a download");
}

void Memory::finish_to_host(const Tensor& host) {
  require(!downloads_.empty() && host.contiguous() && host.bytes() <= downloads_.front().bytes,
          "no download of {} bytes was started", host.bytes());
  const Download download = downloads_.front();
  downloads_.pop_front();
  spare_.push_back(download);
  check(cudaEventSynchronize(download.done), "run");
  std::memcpy(host.data, download.pinned, host.bytes());
}

void Memory::copy(const Tensor& from, const Tensor& to) {
  transfer(from, to, cudaMemcpyDeviceToDevice, stream_);
}

void Memory::zero(const Tensor& tensor) {
  if (tensor.elements() == 0) return;
  if (tensor.contiguous()) {
    check(cudaMemsetAsync(tensor.data, 0, tensor.bytes(), stream_), "zero");
    return;
  }
  for (std::int64_t i = 0; i < tensor.size(0); ++i) zero(tensor[i]);
}

void Memory::finish() {
  check(cudaStreamSynchronize(stream_), "run");
}

}  // namespace mamba2::cuda
