// Ops of several ranks, each on a GPU of its own.
#include "mamba2/cuda/context.h"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/over_ranks.h"
#include "mamba2/cuda/rows.h"

namespace mamba2::cuda {

/// More rows than few are sent in bf16 where their products' inputs were rounded to it: half the bytes, for a rounding
/// of the size that the products have already.
void add_over_ranks(Context& context, Communicator& ranks, const mamba2::AddOverRanks& op) {
  if (op.x.elements() == 0) return;
  Tensor products = op.x;
  if (context.rounds() && op.x.size(0) > few_rows_limit) {
    products = Tensor(context.scratch(op.x.bytes() / 2), DType::bf16, op.x.shape, op.x.device);
    round_rows({.rows = op.x.size(0),
                .width = extent(op.x.size(1), "hidden_size"),
                .x = const_rows(op.x),
                .out_dtype = DType::bf16,
                .out = rows(products)},
               context.stream());
  }
  ranks.all_reduce(products, context.stream());
  add_rows({.rows = op.x.size(0),
            .width = extent(op.x.size(1), "hidden_size"),
            .products = const_rows(products),
            .dtype = products.dtype,
            .add = const_rows(op.add),
            .out = rows(op.out)},
           context.stream());
}

void norm_over_ranks(Context& context, Communicator& ranks, const mamba2::NormOverRanks& op) {
  if (op.x.elements() == 0) return;
  const GroupedRows grouped{.rows = op.x.size(0),
                            .width = extent(op.x.size(1), "intermediate_size"),
                            .group_size = op.group_size,
                            .first_channel = op.first_channel,
                            .groups = extent(op.square_sums.size(1), "the number of norm groups"),
                            .x = const_rows(op.x),
                            .square_sums = op.square_sums.as<float>()};
  sum_squares(grouped, context.stream());
  ranks.all_reduce(op.square_sums, context.stream());
  scale_rows({.grouped = grouped, .weight = floats(op.weight), .eps = static_cast<float>(op.eps), .out = rows(op.out)},
             context.stream());
}

void broadcast(Context& context, Communicator& ranks, const mamba2::Broadcast& op) {
  if (op.x.elements() > 0) ranks.broadcast(op.x, context.stream());
}

}  // namespace mamba2::cuda
