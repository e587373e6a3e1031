#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "mamba2/checkpoint/pytorch.h"
#include "mamba2/checkpoint/safetensors.h"
#include "mamba2/checkpoint/sharded.h"
#include "test_files.h"

namespace {

std::atomic<std::size_t> held{0}, peak{0};

void* counted(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  const std::size_t now = held += malloc_usable_size(memory);
  for (std::size_t before = peak; now > before && !peak.compare_exchange_weak(before, now);) continue;
  return memory;
}

void uncounted(void* memory) {
  if (memory != nullptr) held -= malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace

void* operator new(std::size_t bytes) {
  return counted(std::malloc(bytes));
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto unit = static_cast<std::size_t>(alignment);
  return counted(std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit));
}
void operator delete(void* memory) noexcept {
  uncounted(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  uncounted(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  uncounted(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  uncounted(memory);
}

namespace mamba2 {
namespace {

using test::bytes_of;
namespace op = test::op;

/// What a hostile file may cost beyond its own bytes.
constexpr std::size_t allowed = 64U << 20;

/// The most memory held at once while `act` runs, beyond what was held before, whether it throws Error or not.
template <class Act>
std::size_t cost_of(Act&& act) {
  const std::size_t before = held;
  peak = before;
  try {
    act();
  } catch (const Error&) {
  }
  return peak - before;
}

using MemoryTest = test::FolderTest;

std::string header_of_tensors(std::size_t count, const std::string& name) {
  std::string header = "{";
  for (std::size_t i = 0; i < count; ++i)
    header += fmt::format(R"({}"{}{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", i == 0 ? "" : ",", name, i);
  return header + "}";
}

TEST_F(MemoryTest, SafetensorsHeadersOfAnyContentStayWithinTheBound) {
  const std::string megabytes(90U << 20, 'x');
  for (const std::string& header : {"{\"" + megabytes + "\":1}", "{\"__metadata__\":{\"a\":\"" + megabytes + "\"}}",
                                    "{" + std::string(90U << 20, ' ') + "}", "{}" + std::string(90U << 20, ' '),
                                    "{\"w\":" + std::string(90U << 20, '['), "{\"w\":" + std::string(90U << 20, '1')})
    EXPECT_LT(cost_of([file = write("x", test::safetensors(header))] { SafetensorsFile{file}; }), allowed);
  EXPECT_LT(
      cost_of([file = write("x", test::safetensors(header_of_tensors(max_tensors, "")))] { SafetensorsFile{file}; }),
      allowed);
  EXPECT_LT(cost_of([file = write("x", test::safetensors(header_of_tensors(600'000, std::string(80, 'n'))))] {
              SafetensorsFile{file};
            }),
            allowed);
}

TEST_F(MemoryTest, IndexesOfAnyContentStayWithinTheBound) {
  std::string many = "{\"weight_map\":{\"\":\"a\"", shards = many;
  for (int i = 0; i < 2'000'000; ++i) many += fmt::format(",\"{}\":\"a\"", i);
  for (int i = 0; i < 2'000'000; ++i) shards += fmt::format(",\"{}\":\"{}\"", i, i);
  for (const std::string& index :
       {many, shards, "{\"m\":" + std::string(60U << 20, '['), "{\"m\":\"" + std::string(60U << 20, 'x')})
    EXPECT_LT(cost_of([file = write("i", index)] { open_tensors(file); }), allowed) << index.substr(0, 40);
}

TEST_F(MemoryTest, ShardsWithAsManyTensorsAsAllowedStayWithinTheBound) {
  write("a", test::safetensors(header_of_tensors(max_tensors, "some.longer.tensor.name.with.many.parts.")));
  std::string index = "{\"weight_map\":{";
  for (std::size_t i = 0; i < max_tensors; ++i)
    index += fmt::format(R"({}"some.longer.tensor.name.with.many.parts.{}":"a")", i == 0 ? "" : ",", i);
  EXPECT_LT(
      cost_of([file = write("i", index + "}}")] { EXPECT_EQ(open_tensors(file)->tensors().size(), max_tensors); }),
      allowed);
}

TEST_F(MemoryTest, PicklesOfAnyContentStayWithinTheBound) {
  const std::string tensor = op::tensor(op::storage("ByteStorage", "0", 1), 0, {1}, {1});
  // The arguments of one call are memoized and the call repeated: the most tensors that few bytes can make.
  std::string repeated = tensor.substr(0, tensor.size() - 1) +
                         "q\x01"
                         "0" +
                         op::global("torch._utils", "_rebuild_tensor_v2") +
                         "q\x02"
                         "0]q\x03";
  for (int i = 0; i < 2'000'000; ++i) repeated += "h\x02h\x01Ra";
  std::string repeated_name = op::empty_dict + op::text(std::string(1U << 20, 'n')) +
                              "q\x01"
                              "0" +
                              tensor +
                              "q\x02"
                              "0";
  for (int i = 0; i < 100'000; ++i) repeated_name += "h\x01h\x02s";
  std::string memo;
  for (std::uint32_t i = 0; i < 4'000'000; ++i) memo += "Nr" + test::le(2 * i) + "0";
  std::string storages = op::mark + op::text("storage") + op::global("torch", "ByteStorage") + op::text("0") +
                         op::text("cpu") + op::number(1) + op::tuple + "q\x01";
  for (int i = 0; i < 10'000'000; ++i) storages += "Qh\x01";
  for (const std::string& pickle :
       {repeated, repeated_name, memo, storages, std::string(60U << 20, '}'), std::string(60U << 20, '('),
        "]" + std::string(60U << 20, 'N'), "N" + std::string(60U << 20, '\x85')})
    EXPECT_LT(cost_of([file = write("x", test::torch_file(pickle, {{"0", "1"}}))] { PyTorchFile{file}; }), allowed);
}

TEST_F(MemoryTest, ZipDirectoriesOfManyEntriesStayWithinTheBound) {
  test::ZipBuilder zip;
  for (int i = 0; i < 65'534; ++i) zip.add(std::to_string(i), "");
  EXPECT_LT(cost_of([file = write("x", zip.build())] { PyTorchFile{file}; }), allowed);
}

}  // namespace
}  // namespace mamba2
