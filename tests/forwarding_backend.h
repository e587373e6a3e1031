#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "mamba2/ops/backend.h"

namespace mamba2::test {

/// A backend of the host that leaves everything to another, for tests that replace some of it.
class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> computes) : computes_(std::move(computes)) {}

  std::string_view name() const override { return computes_->name(); }
  Device device() const override { return computes_->device(); }
  DType activation_dtype() const override { return computes_->activation_dtype(); }
  std::unique_ptr<PreparedWeight> prepare(WeightRole role, const Tensor& host, DType held_as) override {
    return computes_->prepare(role, host, held_as);
  }
  using Backend::upload;
  void upload(const Tensor& host, const Tensor& on_device) override { computes_->upload(host, on_device); }
  void download(const Tensor& on_device, const Tensor& host) override { computes_->download(on_device, host); }
  void copy(const Tensor& from, const Tensor& to) override { computes_->copy(from, to); }
  void zero(const Tensor& tensor) override { computes_->zero(tensor); }

 protected:
  void* allocate_bytes(std::size_t bytes) override {
    constexpr std::size_t line = 64;
    const std::size_t whole = (bytes / line + 1) * line;
    return std::memset(std::aligned_alloc(line, whole), 0, whole);
  }
  void free_bytes(void* memory, std::size_t) noexcept override { std::free(memory); }
  using Backend::compute;
  void compute(const Embedding& op) override { computes_->run(op); }
  void compute(const Linear& op) override { computes_->run(op); }
  void compute(const RmsNorm& op) override { computes_->run(op); }
  void compute(const GatedRmsNorm& op) override { computes_->run(op); }
  void compute(const CausalConv& op) override { computes_->run(op); }
  void compute(const TimeStep& op) override { computes_->run(op); }
  void compute(const SsdScan& op) override { computes_->run(op); }
  void compute(const GatedActivation& op) override { computes_->run(op); }
  void compute(const Activate& op) override { computes_->run(op); }
  void compute(const Mixer& op) override { computes_->run(op); }
  void compute(const Rope& op) override { computes_->run(op); }
  void compute(const Attention& op) override { computes_->run(op); }
  void compute(const GatherRows& op) override { computes_->run(op); }
  void compute(const CrossEntropy& op) override { computes_->run(op); }

  Backend& computes() { return *computes_; }

 private:
  std::unique_ptr<Backend> computes_;
};

}  // namespace mamba2::test
