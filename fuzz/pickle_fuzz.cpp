#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "mamba2/base/error.h"
#include "mamba2/checkpoint/pytorch.h"

namespace {

/// Every tensor lies inside the first `size` bytes.
void check(const std::vector<mamba2::TorchTensor>& tensors, std::size_t size) {
  for (const auto& tensor : tensors) {
    if (tensor.shape.elements() == 0) continue;
    std::size_t last = 0;
    for (int i = 0; i < tensor.shape.rank(); ++i)
      last += static_cast<std::size_t>((tensor.shape[i] - 1) * tensor.strides[static_cast<std::size_t>(i)]);
    if (tensor.begin > size || (last + 1) * element_size(tensor.dtype) > size - tensor.begin) std::abort();
  }
}

}  // namespace

/// The input as a whole torch.save file and as the pickle inside one, each of whose storages is 16 KiB long.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span file(reinterpret_cast<const std::byte*>(data), size);
  constexpr std::size_t storage_bytes = 16384;
  try {
    if (size > 0 && data[0] == 'P')
      check(mamba2::parse_pytorch(file, "input"), size);
    else
      check(mamba2::parse_state_dict(file, "input",
                                     [](std::string_view) {
                                       return mamba2::ByteRange{0, storage_bytes};
                                     }),
            storage_bytes);
  } catch (const mamba2::Error& error) {
    const std::string_view message = error.what();
    if (!message.starts_with("input") || message.find('\n') != std::string_view::npos) std::abort();
  }
  return 0;
}
