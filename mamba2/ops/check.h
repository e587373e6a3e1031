#pragma once

#include "mamba2/ops/backend.h"

namespace mamba2 {

/// Each throws Error naming op, operand, what was expected and what was found.
void check(const Embedding& op, const Backend& backend);
void check(const Linear& op, const Backend& backend);
void check(const RmsNorm& op, const Backend& backend);
void check(const GatedRmsNorm& op, const Backend& backend);
void check(const CausalConv& op, const Backend& backend);
void check(const TimeStep& op, const Backend& backend);
void check(const SsdScan& op, const Backend& backend);
void check(const GatedActivation& op, const Backend& backend);
void check(const Activate& op, const Backend& backend);
void check(const Mixer& op, const Backend& backend);
void check(const MixerLayers& op, const Backend& backend);
void check(const SettleState& op, const Backend& backend);
void check(const Rope& op, const Backend& backend);
void check(const Attention& op, const Backend& backend);
void check(const GatherRows& op, const Backend& backend);
void check(const CrossEntropy& op, const Backend& backend);
void check(const ChooseToken& op, const Backend& backend);
void check(const AddOverRanks& op, const Backend& backend);
void check(const NormOverRanks& op, const Backend& backend);
void check(const Broadcast& op, const Backend& backend);

}  // namespace mamba2
