#include "mamba2/cuda/blas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/cuda/check.h"

namespace mamba2::cuda {
namespace {

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // what NVIDIA advises for Hopper
constexpr std::size_t most_plans = 4096;                        // a prompt of every length makes some of its own

/// The functions used, by their names in the library.
struct Functions {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;

  bool load(void* library) {
    bool all = true;
    auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      all = all && function != nullptr;
    };
    find(create, "cublasLtCreate");
    find(destroy, "cublasLtDestroy");
    find(matmul, "cublasLtMatmul");
    find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(desc_create, "cublasLtMatmulDescCreate");
    find(desc_destroy, "cublasLtMatmulDescDestroy");
    find(desc_set, "cublasLtMatmulDescSetAttribute");
    find(layout_create, "cublasLtMatrixLayoutCreate");
    find(layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(preference_create, "cublasLtMatmulPreferenceCreate");
    find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    return all;
  }
};

cudaDataType_t data_type(DType dtype) {
  if (dtype == DType::bf16) return CUDA_R_16BF;
  if (dtype == DType::f16) return CUDA_R_16F;
  return CUDA_R_32F;
}

std::uint32_t alignment(const void* data) {
  constexpr std::uintptr_t most = 256;
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  return static_cast<std::uint32_t>(address == 0 ? most : std::min(most, address & (~address + 1)));
}

void check_blas(cublasStatus_t status, const char* what) {
  require(status == CUBLAS_STATUS_SUCCESS, "CUDA: cuBLASLt: {}: status {}", what, static_cast<int>(status));
}

using Key = std::array<std::int64_t, 15>;

Key key_of(const Product& p) {
  return {p.rows,
          p.inputs,
          p.outputs,
          static_cast<std::int64_t>(p.dtype),
          static_cast<std::int64_t>(p.out_dtype),
          p.x.stride,
          p.weight.stride,
          p.bias != nullptr,
          p.add.data != nullptr ? p.add.stride : -1,
          p.out.stride,
          alignment(p.x.data),
          alignment(p.weight.data),
          p.add.data != nullptr ? alignment(p.add.data) : 0,
          alignment(p.out.data),
          p.bias != nullptr ? alignment(p.bias) : 0};
}

/// Frees what was created, by the library's own function.
template <class T>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, cublasStatus_t (*)(T)>;

/// A product as the library sees it.  Its matrices are column by column: our rows are its columns, and it computes
/// out^T = W x^T.
struct Plan {
  Owned<cublasLtMatmulDesc_t> desc;
  Owned<cublasLtMatrixLayout_t> weight, x, add, out;
  std::optional<cublasLtMatmulAlgo_t> algorithm;
};

}  // namespace

struct BlasLt::State {
  void* library = nullptr;
  Functions functions;
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;

  Owned<cublasLtMatrixLayout_t> layout(cudaDataType_t type, std::int64_t rows, std::int64_t columns,
                                       std::int64_t stride) const {
    cublasLtMatrixLayout_t made = nullptr;
    check_blas(functions.layout_create(&made, type, static_cast<std::uint64_t>(rows),
                                       static_cast<std::uint64_t>(columns), stride),
               "make a layout");
    return {made, functions.layout_destroy};
  }

  template <class Value>
  void set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const Value& value) const {
    check_blas(functions.desc_set(desc, attribute, &value, sizeof(value)), "describe a product");
  }
  template <class Value>
  void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
           const Value& value) const {
    check_blas(functions.preference_set(preference, attribute, &value, sizeof(value)), "set a preference");
  }

  Plan make_plan(const Product& p) const;
  const Plan& plan_of(const Product& p);
};

Plan BlasLt::State::make_plan(const Product& p) const {
  cublasLtMatmulDesc_t made = nullptr;
  check_blas(functions.desc_create(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe a product");
  const bool has_add = p.add.data != nullptr;
  Plan plan{.desc = {made, functions.desc_destroy},
            .weight = layout(data_type(p.dtype), p.inputs, p.outputs, p.weight.stride),
            .x = layout(data_type(p.dtype), p.inputs, p.rows, p.x.stride),
            .add = layout(data_type(p.out_dtype), p.outputs, p.rows, has_add ? p.add.stride : p.out.stride),
            .out = layout(data_type(p.out_dtype), p.outputs, p.rows, p.out.stride),
            .algorithm = {}};
  set(made, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  set(made, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  if (p.bias != nullptr) {
    set(made, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(made, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(p.bias));
  }
  cublasLtMatmulPreference_t preference_made = nullptr;
  check_blas(functions.preference_create(&preference_made), "make a preference");
  const Owned<cublasLtMatmulPreference_t> preference(preference_made, functions.preference_destroy);
  set(preference_made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  set(preference_made, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.weight.data));
  set(preference_made, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.x.data));
  set(preference_made, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(has_add ? p.add.data : p.out.data));
  set(preference_made, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.out.data));
  cublasLtMatmulHeuristicResult_t result = {};
  int found = 0;
  const cublasStatus_t status =
      functions.heuristic(handle, plan.desc.get(), plan.weight.get(), plan.x.get(), plan.add.get(), plan.out.get(),
                          preference.get(), 1, &result, &found);
  if (status == CUBLAS_STATUS_SUCCESS && found > 0) plan.algorithm = result.algo;
  return plan;
}

const Plan& BlasLt::State::plan_of(const Product& p) {
  const Key key = key_of(p);
  const auto known = plans.find(key);
  if (known != plans.end()) return known->second;
  if (plans.size() >= most_plans) plans.clear();
  return plans.emplace(key, make_plan(p)).first->second;
}

BlasLt::BlasLt(std::unique_ptr<State> state) : state_(std::move(state)) {}

BlasLt::~BlasLt() {
  state_->plans.clear();
  (void)cudaFree(state_->workspace);
  (void)state_->functions.destroy(state_->handle);
}

std::unique_ptr<BlasLt> BlasLt::open(std::string& why) {
  auto state = std::make_unique<State>();
  const std::string name = "libcublasLt.so." + std::to_string(CUDART_VERSION / 1000);
  for (const std::string& path : {name, "/usr/local/cuda/lib64/" + name}) {
    state->library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (state->library != nullptr) break;
  }
  if (state->library == nullptr || !state->functions.load(state->library)) {
    why = name + " is not there";
    return nullptr;
  }
  check_blas(state->functions.create(&state->handle), "start");
  std::unique_ptr<BlasLt> made(new BlasLt(std::move(state)));
  check(cudaMalloc(&made->state_->workspace, workspace_bytes), "work space of cuBLASLt");
  return made;
}

bool BlasLt::takes(const Product& p) {
  constexpr std::uint32_t least = 16;
  const auto element = static_cast<std::int64_t>(element_size(p.dtype));
  return alignment(p.x.data) >= least && alignment(p.weight.data) >= least && p.inputs * element % least == 0 &&
         p.x.stride * element % least == 0 && p.weight.stride * element % least == 0;
}

bool BlasLt::knows(const Product& p) {
  return state_->plan_of(p).algorithm.has_value();
}

bool BlasLt::multiply(const Product& p, cudaStream_t stream) {
  const Plan& plan = state_->plan_of(p);
  if (!plan.algorithm) return false;
  if (p.bias != nullptr)
    state_->set(plan.desc.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(p.bias));
  const float one = 1.0F, beta = p.add.data != nullptr ? 1.0F : 0.0F;
  const void* add = p.add.data != nullptr ? p.add.data : p.out.data;
  const cublasStatus_t status = state_->functions.matmul(
      state_->handle, plan.desc.get(), &one, p.weight.data, plan.weight.get(), p.x.data, plan.x.get(), &beta, add,
      plan.add.get(), p.out.data, plan.out.get(), &*plan.algorithm, state_->workspace, workspace_bytes, stream);
  require(status == CUBLAS_STATUS_SUCCESS, "CUDA: cuBLASLt: {} x {} x {} in {}: status {}", p.rows, p.inputs, p.outputs,
          name(p.dtype), static_cast<int>(status));
  return true;
}

}  // namespace mamba2::cuda
