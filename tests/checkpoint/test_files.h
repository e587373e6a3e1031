#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/base/error.h"
#include "tests/temporary_folder.h"

namespace mamba2::test {

/// An empty folder of the running test's own.
class FolderTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name = "") const { return name.empty() ? folder_.path() : folder_ / name; }
  std::string write(const std::string& name, std::string_view bytes) const { return folder_.write(name, bytes); }
  std::vector<std::string> files() const { return folder_.files(); }

 private:
  TemporaryFolder folder_;
};

inline std::string golden(const std::string& name) {
  return std::string(MAMBA2_SOURCE_DIR "/tests/data/golden/") + name;
}

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// The message of the Error that `act` throws.
template <class Act>
std::string error_of(Act&& act) {
  try {
    act();
  } catch (const Error& e) {
    return e.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

/// `value` as the bytes of a little-endian integer.
template <class Integer>
std::string le(Integer value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

inline std::string safetensors(std::string_view header, std::string_view data = "") {
  return le<std::uint64_t>(header.size()) + std::string(header) + std::string(data);
}

template <class T>
std::string raw(std::initializer_list<T> values) {
  return std::string(reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(T));
}

/// A zip archive as Python's zipfile or torch.save writes it, whose fields can be made wrong.
class ZipBuilder {
 public:
  struct Entry {
    std::string name, data;
    std::uint16_t flags = 0, method = 0;
    std::uint32_t local_size = 0, packed = 0, size = 0;
    std::uint32_t offset = 0;
    std::string extra = {};
  };

  ZipBuilder& add(const std::string& name, const std::string& data) {
    const auto size = static_cast<std::uint32_t>(data.size());
    entries_.push_back({.name = name, .data = data, .local_size = size, .packed = size, .size = size});
    entries_.back().offset = static_cast<std::uint32_t>(offset_);
    offset_ += 30 + name.size() + data.size();
    return *this;
  }
  Entry& last() { return entries_.back(); }

  std::string local() const {
    std::string bytes;
    for (const Entry& e : entries_)
      bytes += "PK\x03\x04" + std::string(2, '\0') + le(e.flags) + le(e.method) + std::string(8, '\0') +
               le(e.local_size) + le(e.local_size) + le(static_cast<std::uint16_t>(e.name.size())) +
               le<std::uint16_t>(0) + e.name + e.data;
    return bytes;
  }
  std::string directory() const {
    std::string bytes;
    for (const Entry& e : entries_)
      bytes += "PK\x01\x02" + std::string(4, '\0') + le(e.flags) + le(e.method) + std::string(8, '\0') + le(e.packed) +
               le(e.size) + le(static_cast<std::uint16_t>(e.name.size())) +
               le(static_cast<std::uint16_t>(e.extra.size())) + std::string(10, '\0') + le(e.offset) + e.name + e.extra;
    return bytes;
  }
  static std::string end(std::uint16_t entries, std::uint32_t size, std::uint32_t offset) {
    return "PK\x05\x06" + std::string(4, '\0') + le(entries) + le(entries) + le(size) + le(offset) +
           le<std::uint16_t>(0);
  }
  std::string build() const {
    const std::string head = local(), middle = directory();
    return head + middle +
           end(static_cast<std::uint16_t>(entries_.size()), static_cast<std::uint32_t>(middle.size()),
               static_cast<std::uint32_t>(head.size()));
  }

 private:
  std::vector<Entry> entries_;
  std::size_t offset_ = 0;
};

/// Pickle opcodes of protocol 2, as torch.save writes them.
namespace op {
inline const std::string proto = "\x80\x02", mark = "(", stop = ".", empty_dict = "}", empty_tuple = ")", tuple = "t",
                         reduce = "R", setitem = "s", setitems = "u", persid = "Q", build = "b", false_ = "\x89";
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string text(const std::string& value) {
  return "X" + le(static_cast<std::uint32_t>(value.size())) + value;
}
inline std::string number(std::int64_t value) {
  return "\x8a\x08" + le(value);
}
inline std::string numbers(const std::vector<std::int64_t>& values) {
  std::string bytes = mark;
  for (const std::int64_t value : values) bytes += number(value);
  return bytes + tuple;
}
inline std::string ordered_dict() {
  return global("collections", "OrderedDict") + empty_tuple + reduce;
}
inline std::string storage(const std::string& type, const std::string& key, std::int64_t elements) {
  return mark + text("storage") + global("torch", type) + text(key) + text("cpu") + number(elements) + tuple + persid;
}
inline std::string tensor(const std::string& storage, std::int64_t offset, const std::vector<std::int64_t>& shape,
                          const std::vector<std::int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") + mark + storage + number(offset) + numbers(shape) +
         numbers(strides) + false_ + ordered_dict() + tuple + reduce;
}
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string bytes = empty_dict + mark;
  for (const auto& [key, value] : items) bytes += text(key) + value;
  return bytes + setitems;
}
}  // namespace op

/// A torch.save file: `value` is the pickled value without protocol and stop.
inline std::string torch_file(const std::string& value,
                              const std::vector<std::pair<std::string, std::string>>& storages) {
  ZipBuilder zip;
  zip.add("archive/data.pkl", op::proto + value + op::stop).add("archive/byteorder", "little");
  for (const auto& [key, data] : storages) {
    // Names grow with their number; as torch does, every storage starts at a multiple of 64 bytes.
    zip.add("archive/data/" + key, data);
  }
  return zip.add("archive/version", "3\n").build();
}

}  // namespace mamba2::test
