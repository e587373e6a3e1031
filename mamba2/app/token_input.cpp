#include "mamba2/app/token_input.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"
#include "mamba2/base/json.h"

namespace mamba2::app {
namespace {

std::vector<std::vector<std::int32_t>> read_rows(const Json& json, const std::string& path, const char* field) {
  require(json.is_array(), "{}: {} is no list of lists of integers", path, field);
  std::vector<std::vector<std::int32_t>> rows;
  for (const Json& row : json) {
    require(row.is_array(), "{}: {} is no list of lists of integers", path, field);
    std::vector<std::int32_t>& out = rows.emplace_back();
    for (const Json& value : row) {
      require(value.is_number_integer(), "{}: {} holds {}, expected integers", path, field,
              printable(value.dump(), 40));
      const bool fits =
          !value.is_number_unsigned() ||
          value.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max());
      const std::int64_t number = fits ? value.get<std::int64_t>() : -1;
      require(fits && number >= std::numeric_limits<std::int32_t>::min(), "{}: {} holds {}, expected 32-bit integers",
              path, field, printable(value.dump(), 40));
      out.push_back(static_cast<std::int32_t>(number));
    }
  }
  return rows;
}

/// One number, or a list of them, a row.
std::vector<std::vector<double>> read_labels(const Json& json, const std::string& path) {
  require(json.is_array(), "{}: labels is no list", path);
  std::vector<std::vector<double>> rows;
  for (const Json& row : json) {
    std::vector<double>& out = rows.emplace_back();
    const Json values = row.is_array() ? row : Json::array({row});
    for (const Json& value : values) {
      require(value.is_number(), "{}: labels holds {}, expected numbers", path, printable(value.dump(), 40));
      out.push_back(value.get<double>());
    }
  }
  return rows;
}

}  // namespace

std::vector<std::int32_t> TokenInput::tokens(std::size_t row) const {
  std::vector<std::int32_t> out;
  for (std::size_t i = 0; i < input_ids[row].size(); ++i)
    if (is_token(row, i)) out.push_back(input_ids[row][i]);
  return out;
}

TokenInput read_token_input(const std::string& path) {
  const Json json = read_json_file(path);
  require(json.is_object() && json.contains("input_ids"), "{}: has no input_ids, expected {{\"input_ids\": [[...]]}}",
          path);
  TokenInput input;
  input.input_ids = read_rows(json["input_ids"], path, "input_ids");
  require(!input.input_ids.empty(), "{}: input_ids is empty, expected one row or more", path);
  if (json.contains("attention_mask") && !json["attention_mask"].is_null()) {
    input.attention_mask = read_rows(json["attention_mask"], path, "attention_mask");
    require(input.attention_mask.size() == input.input_ids.size(), "{}: attention_mask has {} rows, input_ids {}", path,
            input.attention_mask.size(), input.input_ids.size());
    for (std::size_t i = 0; i < input.input_ids.size(); ++i) {
      require(input.attention_mask[i].size() == input.input_ids[i].size(),
              "{}: row {} of attention_mask has {} numbers, of input_ids {}", path, i, input.attention_mask[i].size(),
              input.input_ids[i].size());
      for (const std::int32_t value : input.attention_mask[i])
        require(value == 0 || value == 1, "{}: attention_mask holds {}, expected 0 or 1", path, value);
    }
  }
  if (json.contains("labels") && !json["labels"].is_null()) {
    input.labels = read_labels(json["labels"], path);
    require(input.labels.size() == input.input_ids.size(), "{}: labels has {} rows, input_ids {}", path,
            input.labels.size(), input.input_ids.size());
  }
  return input;
}

void check_token_ids(const TokenInput& input, const std::string& path, std::int64_t vocab_size) {
  for (std::size_t row = 0; row < input.input_ids.size(); ++row)
    for (std::size_t i = 0; i < input.input_ids[row].size(); ++i) {
      const std::int32_t id = input.input_ids[row][i];
      require(!input.is_token(row, i) || (id >= 0 && id < vocab_size),
              "{}: input_ids holds {} in row {}, expected token ids from 0 to {}", path, id, row, vocab_size - 1);
    }
}

std::int64_t row_length(const TokenInput& input, const std::string& path) {
  const std::size_t length = input.input_ids.front().size();
  require(length > 0, "{}: row 0 of input_ids is empty, expected one token or more", path);
  for (std::size_t i = 0; i < input.input_ids.size(); ++i)
    require(input.input_ids[i].size() == length, "{}: row {} of input_ids has {} tokens, row 0 has {}", path, i,
            input.input_ids[i].size(), length);
  return static_cast<std::int64_t>(length);
}

}  // namespace mamba2::app
