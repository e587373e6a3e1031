#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/checkpoint/tensor_source.h"
#include "mamba2/model/modeling_mamba2.h"
#include "tests/temporary_folder.h"

namespace mamba2::test {

/// Folders of tests/data/golden that hold a checkpoint and, in golden.safetensors, this tensor.
std::vector<std::string> golden_cases_with(const std::string& tensor);
std::string golden_folder(const std::string& name);

/// What a case expects.
class Golden {
 public:
  explicit Golden(const std::string& name) : source_(open_tensors(golden_folder(name) + "/golden.safetensors")) {}
  bool has(const std::string& tensor) const { return source_->find(tensor) != nullptr; }
  Tensor read(const std::string& tensor) const { return source_->read(tensor); }
  /// Row of an i64 matrix; the only one of a vector.
  std::vector<std::int32_t> integers(const std::string& tensor, std::int64_t row = 0) const;
  std::int64_t rows(const std::string& tensor) const { return source_->find(tensor)->shape[0]; }

 private:
  std::unique_ptr<TensorSource> source_;
};

struct Greedy {
  std::vector<std::int32_t> prompt, continuation;
};
/// Of golden.json; nothing where the case has none.
std::optional<Greedy> greedy_of(const std::string& name);

std::string read_text(const std::string& file);

/// A config of JSON text with fields replaced: {"a": 1, "b.c": 2} sets a, and c of the object b.
Mamba2Config config_of(const std::string& json, const std::string& replaced = "{}");

/// device: "reference", "cpu", "reference_f64" for the reference in double, or "pending" for the reference with room
/// for three tokens' inputs beside the states.
Mamba2Model open_model(const std::string& folder, const std::string& device, LoadOptions options = {});
Mamba2ForCausalLM open_lm(const std::string& folder, const std::string& device, LoadOptions options = {});

/// So many references in double, joined where there are several.
std::vector<std::unique_ptr<Backend>> reference_ranks(int ranks);
void join_in_threads(std::span<const std::unique_ptr<Backend>> backends);

/// The largest difference over the largest expected absolute value; infinity where shapes differ or a value is NaN.
double relative_error(const Tensor& got, const Tensor& expected);
/// The same bits, shape and dtype.
bool same_bits(const Tensor& a, const Tensor& b);
HostTensor on_host(Backend& backend, const Tensor& tensor);

/// Feeds one sequence to slot 0, `piece` tokens a call, and gives all logits.
HostTensor logits_in_pieces(Mamba2ForCausalLM& model, Mamba2Cache& cache, std::span<const std::int32_t> ids,
                            std::size_t piece);
/// All logits of one sequence on a new cache.
HostTensor logits_of(Mamba2ForCausalLM& model, std::span<const std::int32_t> ids);

/// A checkpoint in memory, to be changed and written.
class EditedCheckpoint {
 public:
  /// Of a golden case in safetensors.
  explicit EditedCheckpoint(const std::string& name);
  /// Sets fields of the config, as in config_of().
  void set(const std::string& replaced);
  /// A zeroed tensor, new or in the place of an old one.
  void zero(const std::string& tensor, DType dtype, const Shape& shape);
  void copy(const std::string& tensor, const std::string& as);
  void rename(const std::string& tensor, const std::string& to);
  void rename_all(const std::string& prefix, const std::string& to);
  void erase(const std::string& tensor) { tensors_.erase(tensor); }
  const Tensor& at(const std::string& tensor) const { return tensors_.at(tensor).view(); }
  void write(const std::string& folder) const;

 private:
  std::string config_;
  std::map<std::string, HostTensor> tensors_;
};

/// An empty folder of the running test's own.
class FolderTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_ / name; }

 private:
  TemporaryFolder folder_;
};

/// The message of the Error that act throws.
template <class Act>
std::string error_of(Act&& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

}  // namespace mamba2::test
