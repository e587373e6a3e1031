#pragma once

#include "mamba2/ops/communicator.h"
#include "mamba2/ops/ops.h"

namespace mamba2 {

/// The ops of several ranks in host memory.
void add_over_ranks(const AddOverRanks& op, Communicator& communicator);
void norm_over_ranks(const NormOverRanks& op, Communicator& communicator);

}  // namespace mamba2
