#pragma once

#include <algorithm>
#include <vector>

#include "mamba2/reference/elements.h"

/// Matrix products, each dot product summed from first to last element whatever else is in the batch: a row's result
/// does not depend on its neighbours.
namespace mamba2::reference {

/// out[i] = sum_k weight[i][k] x[k] for `rows` weight rows side by side; only their latency is shared.
template <class Real, int rows>
void dot_rows(const Real* weight, const Real* x, std::int64_t width, Real* out) {
  Real sum[rows] = {};
  for (std::int64_t k = 0; k < width; ++k)
    for (int i = 0; i < rows; ++i) sum[i] += weight[i * width + k] * x[k];
  for (int i = 0; i < rows; ++i) out[i] = sum[i];
}

/// out[j] = sum_k weight[k] x[k][j] for `columns` tokens, x transposed.
template <class Real, int columns>
void dot_columns(const Real* weight, const Real* x, std::int64_t width, Real* out) {
  Real sum[columns] = {};
  for (std::int64_t k = 0; k < width; ++k)
    for (int j = 0; j < columns; ++j) sum[j] += weight[k] * x[k * columns + j];
  for (int j = 0; j < columns; ++j) out[j] = sum[j];
}

template <class T, class Real>
void store_output(const Linear& op, std::int64_t token, std::int64_t column, Real value) {
  if (!op.bias.empty()) value += op.bias.as<T>()[column];
  if (!op.add.empty()) value += row<T>(op.add, token)[column];
  row<T>(op.out, token)[column] = static_cast<T>(value);
}

/// weight (out, in) in any floating dtype, read row by row where it lies.
template <class T, class Real>
void linear(const Linear& op, const Tensor& weight) {
  constexpr int tile = 16;
  const std::int64_t tokens = op.x.size(0), width = op.x.size(1), outputs = op.out.size(1);
  const std::int64_t tiled = tokens / tile * tile;
  std::vector<Real> transposed(static_cast<std::size_t>(tiled * width));
  for (std::int64_t t = 0; t < tiled; ++t)
    for (std::int64_t k = 0; k < width; ++k)
      transposed[static_cast<std::size_t>((t / tile * width + k) * tile + t % tile)] = row<T>(op.x, t)[k];

  constexpr int rows = 4;
  std::vector<Real> weights(static_cast<std::size_t>(rows * width)), x(static_cast<std::size_t>(width));
  Real sums[std::max<int>(tile, rows)];
  for (std::int64_t first = 0; first < outputs; first += rows) {
    const int count = static_cast<int>(std::min<std::int64_t>(rows, outputs - first));
    for (int i = 0; i < count; ++i) load(weight, (first + i) * weight.stride(0), width, weights.data() + i * width);
    for (int i = 0; i < count; ++i)
      for (std::int64_t t = 0; t < tiled; t += tile) {
        dot_columns<Real, tile>(weights.data() + i * width, transposed.data() + t * width, width, sums);
        for (int j = 0; j < tile; ++j) store_output<T, Real>(op, t + j, first + i, sums[j]);
      }
    for (std::int64_t t = tiled; t < tokens; ++t) {
      std::copy_n(row<T>(op.x, t), width, x.begin());
      dot_rows<Real, rows>(weights.data(), x.data(), width, sums);
      for (int i = 0; i < count; ++i) store_output<T, Real>(op, t, first + i, sums[i]);
    }
  }
}

template <class T>
void embedding(const Embedding& op, const Tensor& weight) {
  for (std::int64_t t = 0; t < op.ids.size(0); ++t)
    load(weight, integers(op.ids)[t] * weight.stride(0), weight.size(1), row<T>(op.out, t));
}

template <class T>
void gather_rows(const GatherRows& op) {
  for (std::int64_t i = 0; i < op.rows.size(0); ++i)
    std::copy_n(row<T>(op.x, integers(op.rows)[i]), op.x.size(1), row<T>(op.out, i));
}

}  // namespace mamba2::reference
