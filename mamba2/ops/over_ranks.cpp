#include "mamba2/ops/over_ranks.h"

#include <algorithm>
#include <cmath>

namespace mamba2 {
namespace {

template <class T>
T* row(const Tensor& tensor, std::int64_t index) {
  return tensor.as<T>() + index * tensor.stride(0);
}

template <class T>
void add_rows(const AddOverRanks& op) {
  for (std::int64_t r = 0; r < op.x.size(0); ++r)
    for (std::int64_t i = 0; i < op.x.size(1); ++i) row<T>(op.out, r)[i] = row<T>(op.add, r)[i] + row<T>(op.x, r)[i];
}

/// Calls visit(group, begin, end) for the columns of each group of which this rank has any.
template <class Visit>
void for_groups(const NormOverRanks& op, Visit&& visit) {
  const std::int64_t width = op.x.size(1);
  for (std::int64_t begin = 0; begin < width;) {
    const std::int64_t group = (op.first_channel + begin) / op.group_size;
    const std::int64_t end = std::min(width, (group + 1) * op.group_size - op.first_channel);
    visit(group, begin, end);
    begin = end;
  }
}

template <class T>
void sum_squares(const NormOverRanks& op) {
  for (std::int64_t r = 0; r < op.x.size(0); ++r) {
    T* const sums = row<T>(op.square_sums, r);
    std::fill_n(sums, op.square_sums.size(1), T(0));
    for_groups(op, [&](std::int64_t group, std::int64_t begin, std::int64_t end) {
      double sum = 0;
      for (std::int64_t i = begin; i < end; ++i) sum += static_cast<double>(row<T>(op.x, r)[i]) * row<T>(op.x, r)[i];
      sums[group] = static_cast<T>(sum);
    });
  }
}

template <class T>
void scale_rows(const NormOverRanks& op) {
  for (std::int64_t r = 0; r < op.x.size(0); ++r)
    for_groups(op, [&](std::int64_t group, std::int64_t begin, std::int64_t end) {
      const double sum = row<T>(op.square_sums, r)[group];
      const double scale = 1 / std::sqrt(sum / static_cast<double>(op.group_size) + op.eps);
      for (std::int64_t i = begin; i < end; ++i)
        row<T>(op.out, r)[i] = static_cast<T>(row<T>(op.x, r)[i] * scale * op.weight.as<T>()[i]);
    });
}

}  // namespace

void add_over_ranks(const AddOverRanks& op, Communicator& communicator) {
  communicator.all_reduce(op.x, nullptr);
  if (op.x.dtype == DType::f64)
    add_rows<double>(op);
  else
    add_rows<float>(op);
}

void norm_over_ranks(const NormOverRanks& op, Communicator& communicator) {
  const bool in_double = op.x.dtype == DType::f64;
  in_double ? sum_squares<double>(op) : sum_squares<float>(op);
  communicator.all_reduce(op.square_sums, nullptr);
  in_double ? scale_rows<double>(op) : scale_rows<float>(op);
}

}  // namespace mamba2
