#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mamba2::app {

/// Token rows from a file {"input_ids": [[...]], "attention_mask": [[...]]?, "labels": ...?}.
struct TokenInput {
  std::vector<std::vector<std::int32_t>> input_ids;
  std::vector<std::vector<std::int32_t>> attention_mask;  ///< empty: nothing is padding
  std::vector<std::vector<double>> labels;                ///< empty: none

  std::int64_t rows() const { return static_cast<std::int64_t>(input_ids.size()); }
  bool is_token(std::size_t row, std::size_t column) const {
    return attention_mask.empty() || attention_mask[row][column] != 0;
  }
  /// A row without its padding.
  std::vector<std::int32_t> tokens(std::size_t row) const;
};

/// Reads and checks such a file: ids are integers, the mask is of 0 and 1 and has input_ids' shape.  Throws Error
/// naming file and field.
TokenInput read_token_input(const std::string& path);

/// Error unless every token outside the padding is one of a vocabulary's.
void check_token_ids(const TokenInput& input, const std::string& path, std::int64_t vocab_size);

/// Error unless all rows are equally long and not empty; that length.
std::int64_t row_length(const TokenInput& input, const std::string& path);

}  // namespace mamba2::app
