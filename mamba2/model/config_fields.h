#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/base/json.h"
#include "mamba2/model/config.h"

namespace mamba2 {

/// Reads a config's fields with their types and ranges checked, and keeps track of which were read.  Errors name the
/// file, the field, what was expected and what was found.  A field that is absent or null takes the default.
class ConfigFields {
 public:
  /// where: "config.json", or "config.json: ssm_cfg" for a nested object.
  ConfigFields(const Json& object, std::string where);

  bool has(std::string_view field) const;
  /// In [low, high]; high is by default what 31 bits hold, so that products of two sizes fit 64.
  std::int64_t size(std::string_view field, std::int64_t fallback, std::int64_t low = 1,
                    std::int64_t high = 2147483647);
  double number(std::string_view field, double fallback);
  /// A number > 0.
  double positive(std::string_view field, double fallback);
  bool flag(std::string_view field, bool fallback);
  std::string text(std::string_view field, const std::string& fallback);
  std::vector<std::int64_t> sizes(std::string_view field);
  /// A token id, or the first of a list of them; fallback where absent, nothing where null or negative.
  std::optional<std::int64_t> token(std::string_view field, std::optional<std::int64_t> fallback = std::nullopt);
  TimeStepLimit limit(std::string_view field);
  /// The nested object, empty where absent or null.
  ConfigFields object(std::string_view field);
  const Json* find(std::string_view field);

  /// These fields have no effect on what is computed: read without a word.
  void ignore(std::initializer_list<std::string_view> fields);
  /// The field must be absent or have this value; any other changes the computation in a way that is not supported.
  void only(std::string_view field, const Json& supported);
  /// What was not read, in the file's order.
  std::vector<std::string> unread() const;
  /// Error that names the first field that was not read.
  void refuse_unread() const;

  const std::string& where() const { return where_; }

 private:
  const Json* object_;
  std::string where_;
  std::set<std::string, std::less<>> read_;
};

/// Every layer costs memory before a tensor is looked at, so that a file must not name any number of them; published
/// models have 64.
inline constexpr std::int64_t most_layers = 4096;
/// Taps of a convolution, for the same reason; published models have 4.
inline constexpr std::int64_t longest_kernel = 1 << 16;

/// Sets hidden_act and its name; Error where the name is unknown.
void read_activation(Mamba2Config& config, ConfigFields& fields, std::string_view field);
/// num_labels, id2label, problem_type.
void read_labels(Mamba2Config& config, ConfigFields& fields);

/// JSON text that parse_json() reads back: infinities, for which JSON has no word, as {"__float__": "Infinity"}, which
/// transformers reads too.
std::string json_text(const Json& json, int indent = -1);

Mamba2Config read_huggingface_config(ConfigFields& fields);
Mamba2Config read_fork_config(ConfigFields& fields);
Mamba2Config read_state_spaces_config(ConfigFields& fields);
Mamba2Config read_codestral_config(ConfigFields& fields);

}  // namespace mamba2
