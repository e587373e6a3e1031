#pragma once

#include <cstdint>

#include "mamba2/generate/logits_processor.h"

/// Processors that reshape or cut the distribution before sampling.  min_tokens_to_keep of the best tokens survive in
/// any case.  Ties, thresholds and the order of arithmetic are transformers'.
namespace mamba2 {

/// Divides the scores.
LogitsProcessor temperature(double temperature);
/// The k best tokens and those equal to the k-th.  Fan et al. 2018.
LogitsProcessor top_k(std::int64_t k);
/// The best tokens whose probabilities sum to p; of equal ones those with higher ids stay.  Holtzman et al. 2020.
LogitsProcessor top_p(double p, std::int64_t min_tokens_to_keep);
/// The best of the 100 best tokens until their entropy's share of that of the 100 is over h.
LogitsProcessor top_h(double h);
/// Tokens at least p times as probable as the best.  Nguyen et al. 2024.
LogitsProcessor min_p(double p, std::int64_t min_tokens_to_keep);
/// Tokens whose information is nearest the entropy, until they hold the mass p.  Meister et al. 2023.
LogitsProcessor typical_p(double mass, std::int64_t min_tokens_to_keep);
/// Tokens of probability epsilon and more.  Hewitt et al. 2022.
LogitsProcessor epsilon_cutoff(double epsilon, std::int64_t min_tokens_to_keep);
/// Tokens of probability min(epsilon, sqrt(epsilon) exp(-entropy)) and more.  Hewitt et al. 2022.
LogitsProcessor eta_cutoff(double epsilon, std::int64_t min_tokens_to_keep);
/// Scores become log probabilities.
LogitsProcessor renormalize_logits();

}  // namespace mamba2
