#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "mamba2/base/error.h"
#include "tests/generate/formula_decoder.h"
#include "tests/host_choice.h"

namespace mamba2 {

/// A formula that chooses tokens by rules and goes on from them before they are taken.  Counts what it is asked for,
/// and fails where it is asked for what a real decoder does not have.
class ChoosingDecoder : public FormulaDecoder {
 public:
  using FormulaDecoder::FormulaDecoder;

  bool chooses_tokens() const override { return true; }

  std::span<float> feed(std::span<const DecoderInput> inputs) override {
    std::vector<DecoderInput> all(inputs.begin(), inputs.end());
    for (DecoderInput& input : all) {
      input.wants_logits = input.wants_logits || input.next != nullptr;
      if (input.ids.front() != chosen_token) continue;
      const auto before = chosen_before_.find(input.row);
      require(before != chosen_before_.end(), "no token was chosen for row {}", input.row);
      input.ids = std::span(&before->second, 1);
      ++went_on;
    }
    std::span<float> logits = FormulaDecoder::feed(all);
    std::map<std::int64_t, std::int32_t> chosen_now;
    std::vector<std::int32_t> tokens;
    given_.clear();
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!all[i].wants_logits) continue;
      const std::span<float> scores = logits.first(static_cast<std::size_t>(vocab_size()));
      logits = logits.subspan(scores.size());
      if (inputs[i].next == nullptr) {
        given_.insert(given_.end(), scores.begin(), scores.end());
        continue;
      }
      const TokenRequest& next = *inputs[i].next;
      tokens.push_back(scores_are_nan ? score_is_nan : test::host_choice(next.rule, next.step, next.history, scores));
      chosen_now[inputs[i].row] = tokens.back();
    }
    chosen += tokens.size();
    chosen_before_ = std::move(chosen_now);
    if (!tokens.empty()) untaken_.push_back(std::move(tokens));
    most_untaken = std::max(most_untaken, untaken_.size());
    return given_;
  }

  std::span<const std::int32_t> take_tokens() override {
    require(!untaken_.empty(), "no tokens were asked for");
    taken_ = std::move(untaken_.front());
    untaken_.pop_front();
    if (fails_to_give) fail("the device is gone");
    return taken_;
  }

  std::size_t untaken() const { return untaken_.size(); }

  std::size_t chosen = 0;        // tokens
  std::size_t went_on = 0;       // inputs whose token was not known yet
  std::size_t most_untaken = 0;  // feeds
  bool scores_are_nan = false, fails_to_give = false;

 private:
  std::map<std::int64_t, std::int32_t> chosen_before_;  // by row
  std::deque<std::vector<std::int32_t>> untaken_;
  std::vector<std::int32_t> taken_;
  std::vector<float> given_;
};

}  // namespace mamba2
