#include "mamba2/cuda/nccl.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/core.h>

#include <atomic>
#include <type_traits>

#include "mamba2/base/error.h"

namespace mamba2::cuda {
namespace {

constexpr const char* library_name = "libnccl.so.2";

// What nccl.h says of it, which is the same in all versions 2.
using Handle = struct ncclComm*;
using Status = int;
constexpr Status success = 0;
constexpr int sum = 0, type_i32 = 2, type_f32 = 7, type_bf16 = 9;

/// The functions used, by their names in the library.
struct Functions {
  Status (*version)(int*) = nullptr;
  Status (*init_all)(Handle*, int, const int*) = nullptr;
  Status (*all_reduce)(const void*, void*, std::size_t, int, int, Handle, cudaStream_t) = nullptr;
  Status (*broadcast)(const void*, void*, std::size_t, int, int, Handle, cudaStream_t) = nullptr;
  Status (*destroy)(Handle) = nullptr;
  Status (*abort)(Handle) = nullptr;
  const char* (*error_text)(Status) = nullptr;

  bool load(void* library) {
    bool all = true;
    auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      all = all && function != nullptr;
    };
    find(version, "ncclGetVersion");
    find(init_all, "ncclCommInitAll");
    find(all_reduce, "ncclAllReduce");
    find(broadcast, "ncclBroadcast");
    find(destroy, "ncclCommDestroy");
    find(abort, "ncclCommAbort");
    find(error_text, "ncclGetErrorString");
    return all;
  }
};

/// Null where the library is not there.  It stays until the process ends.
const Functions* functions() {
  static const std::unique_ptr<const Functions> found = [] {
    auto made = std::make_unique<Functions>();
    void* const library = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
    return library != nullptr && made->load(library) ? std::move(made) : nullptr;
  }();
  return found.get();
}

void check(const Functions& nccl, Status status, const char* what) {
  require(status == success, "NCCL: {}: {}", what, nccl.error_text(status));
}

int type_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return type_f32;
    case DType::bf16: return type_bf16;
    case DType::i32: return type_i32;
    default: fail("NCCL: ranks don't exchange {}", name(dtype));
  }
}

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(const Functions& nccl, Handle handle, int rank, int size)
      : Communicator(rank, size), nccl_(nccl), handle_(handle) {}
  ~NcclCommunicator() override {
    if (!aborted_) (void)nccl_.destroy(handle_);
  }

  void all_reduce(const Tensor& data, void* stream) override {
    check_open();
    check(nccl_,
          nccl_.all_reduce(data.data, data.data, static_cast<std::size_t>(data.elements()), type_of(data.dtype), sum,
                           handle_, static_cast<cudaStream_t>(stream)),
          "all-reduce");
  }
  void broadcast(const Tensor& data, void* stream) override {
    check_open();
    check(nccl_,
          nccl_.broadcast(data.data, data.data, static_cast<std::size_t>(data.elements()), type_of(data.dtype), 0,
                          handle_, static_cast<cudaStream_t>(stream)),
          "broadcast");
  }
  void abort() noexcept override {
    if (!aborted_.exchange(true)) (void)nccl_.abort(handle_);
  }
  bool recordable() const override { return true; }

 private:
  void check_open() const { require(!aborted_, "another rank of the model has failed"); }

  const Functions& nccl_;
  Handle handle_;
  std::atomic<bool> aborted_{false};
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_nccl_communicators(std::span<const int> devices) {
  const Functions* const nccl = functions();
  require(nccl != nullptr, "a model is split over GPUs by NCCL, and {} is not there", library_name);
  const int size = static_cast<int>(devices.size());
  std::vector<Handle> handles(devices.size());
  check(*nccl, nccl->init_all(handles.data(), size, devices.data()), "join the GPUs");
  std::vector<std::unique_ptr<Communicator>> made;
  for (int rank = 0; rank < size; ++rank)
    made.push_back(std::make_unique<NcclCommunicator>(*nccl, handles[static_cast<std::size_t>(rank)], rank, size));
  return made;
}

std::string describe_nccl() {
  int version = 0;
  if (functions() == nullptr || functions()->version(&version) != success)
    return fmt::format("{} is not there", library_name);
  return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace mamba2::cuda
