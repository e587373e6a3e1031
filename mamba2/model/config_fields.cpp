#include "mamba2/model/config_fields.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

std::string shown(const Json& value) {
  return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 80);
}

/// nlohmann would convert 1.5 and true silently.
bool is_integer(const Json& value) {
  if (value.is_number_integer()) return true;
  if (!value.is_number_float()) return false;
  const auto number = value.get<double>();
  return std::trunc(number) == number && std::abs(number) < 0x1p53;
}

std::int64_t to_integer(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    return number > 0x7FFFFFFFFFFFFFFFULL ? 0x7FFFFFFFFFFFFFFFLL : static_cast<std::int64_t>(number);
  }
  return value.is_number_float() ? static_cast<std::int64_t>(value.get<double>()) : value.get<std::int64_t>();
}

const Json& empty_object() {
  static const Json empty = Json::object();
  return empty;
}

/// Every infinity in the value replaced by the object that stands for it.
void wrap_infinities(Json& json) {
  if (json.is_structured()) {
    for (Json& item : json) wrap_infinities(item);
    return;
  }
  if (!json.is_number_float()) return;
  const auto number = json.get<double>();
  if (std::isfinite(number)) return;
  json = Json{{"__float__", std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity"}};
}

}  // namespace

std::string json_text(const Json& json, int indent) {
  Json finite = json;
  wrap_infinities(finite);
  return finite.dump(indent);
}

ConfigFields::ConfigFields(const Json& object, std::string where) : object_(&object), where_(std::move(where)) {
  require(object.is_object(), "{}: is {}, expected an object", where_, shown(object));
}

const Json* ConfigFields::find(std::string_view field) {
  const auto found = object_->find(std::string(field));
  if (found == object_->end()) return nullptr;
  read_.insert(std::string(field));
  return found->is_null() ? nullptr : &*found;
}

bool ConfigFields::has(std::string_view field) const {
  const auto found = object_->find(std::string(field));
  return found != object_->end() && !found->is_null();
}

std::int64_t ConfigFields::size(std::string_view field, std::int64_t fallback, std::int64_t low, std::int64_t high) {
  const Json* value = find(field);
  if (value == nullptr) return fallback;
  require(is_integer(*value), "{}: {} is {}, expected an integer", where_, field, shown(*value));
  const std::int64_t number = to_integer(*value);
  require(low <= number && number <= high, "{}: {} is {}, expected {} to {}", where_, field, shown(*value), low, high);
  return number;
}

double ConfigFields::number(std::string_view field, double fallback) {
  const Json* value = find(field);
  if (value == nullptr) return fallback;
  require(value->is_number(), "{}: {} is {}, expected a number", where_, field, shown(*value));
  return value->get<double>();
}

double ConfigFields::positive(std::string_view field, double fallback) {
  const double value = number(field, fallback);
  require(value > 0 && std::isfinite(value), "{}: {} is {}, expected a finite number above 0", where_, field, value);
  return value;
}

bool ConfigFields::flag(std::string_view field, bool fallback) {
  const Json* value = find(field);
  if (value == nullptr) return fallback;
  require(value->is_boolean(), "{}: {} is {}, expected true or false", where_, field, shown(*value));
  return value->get<bool>();
}

std::string ConfigFields::text(std::string_view field, const std::string& fallback) {
  const Json* value = find(field);
  if (value == nullptr) return fallback;
  require(value->is_string(), "{}: {} is {}, expected a string", where_, field, shown(*value));
  return value->get<std::string>();
}

std::vector<std::int64_t> ConfigFields::sizes(std::string_view field) {
  std::vector<std::int64_t> out;
  const Json* value = find(field);
  if (value == nullptr) return out;
  require(value->is_array(), "{}: {} is {}, expected a list of integers", where_, field, shown(*value));
  for (const Json& item : *value) {
    require(is_integer(item), "{}: {} holds {}, expected integers", where_, field, shown(item));
    out.push_back(to_integer(item));
  }
  return out;
}

std::optional<std::int64_t> ConfigFields::token(std::string_view field, std::optional<std::int64_t> fallback) {
  const Json* value = find(field);
  if (value == nullptr) return read_.count(field) == 0 ? fallback : std::nullopt;
  const Json& first = value->is_array() && !value->empty() ? value->front() : *value;
  require(is_integer(first), "{}: {} is {}, expected a token id", where_, field, shown(*value));
  const std::int64_t id = to_integer(first);
  if (id < 0) return std::nullopt;  // -1 is how some writers say none
  return id;
}

TimeStepLimit ConfigFields::limit(std::string_view field) {
  TimeStepLimit out;
  const Json* value = find(field);
  if (value == nullptr) return out;
  const bool pair = value->is_array() && value->size() == 2 && (*value)[0].is_number() && (*value)[1].is_number();
  require(pair, "{}: {} is {}, expected [minimum, maximum]", where_, field, shown(*value));
  out.min = (*value)[0].get<double>();
  out.max = (*value)[1].get<double>();
  require(out.min <= out.max, "{}: {} is {}, expected a minimum no larger than the maximum", where_, field,
          shown(*value));
  return out;
}

ConfigFields ConfigFields::object(std::string_view field) {
  const Json* value = find(field);
  return {value == nullptr ? empty_object() : *value, fmt::format("{}: {}", where_, field)};
}

void ConfigFields::ignore(std::initializer_list<std::string_view> fields) {
  for (const std::string_view field : fields) find(field);
}

void ConfigFields::only(std::string_view field, const Json& supported) {
  const Json* value = find(field);
  if (value == nullptr || *value == supported) return;
  fail("{}: {} is {}, only {} is supported", where_, field, shown(*value), shown(supported));
}

std::vector<std::string> ConfigFields::unread() const {
  std::vector<std::string> out;
  for (const auto& item : object_->items())
    if (read_.count(item.key()) == 0) out.push_back(item.key());
  return out;
}

void ConfigFields::refuse_unread() const {
  const std::vector<std::string> left = unread();
  if (!left.empty()) fail("{}: {} is not supported", where_, printable(left.front()));
}

void read_activation(Mamba2Config& config, ConfigFields& fields, std::string_view field) {
  config.hidden_act_name = fields.text(field, "silu");
  const auto act = parse_activation(config.hidden_act_name);
  require(act.has_value(), "{}: {} is '{}', expected silu, swish, gelu, gelu_new, relu, tanh or sigmoid",
          fields.where(), field, printable(config.hidden_act_name));
  config.hidden_act = *act;
}

void read_labels(Mamba2Config& config, ConfigFields& fields) {
  config.num_labels = fields.size("num_labels", 2, 1, 1 << 20);
  if (const Json* labels = fields.find("id2label")) {
    require(labels->is_object(), "{}: id2label is {}, expected an object", fields.where(), shown(*labels));
    for (const auto& item : labels->items()) {
      const std::string& key = item.key();
      const bool number = !key.empty() && key.size() <= 7 && key.find_first_not_of("0123456789") == std::string::npos;
      require(number && item.value().is_string(), "{}: id2label holds '{}': {}, expected a number and a string",
              fields.where(), printable(key), shown(item.value()));
      config.id2label[std::stoll(key)] = item.value().get<std::string>();
    }
    if (!fields.has("num_labels") && !config.id2label.empty())
      config.num_labels = static_cast<std::int64_t>(config.id2label.size());
  }
  const std::string problem = fields.text("problem_type", "");
  if (problem.empty()) return;
  if (problem == "regression")
    config.problem_type = ProblemType::regression;
  else if (problem == "single_label_classification")
    config.problem_type = ProblemType::single_label_classification;
  else if (problem == "multi_label_classification")
    config.problem_type = ProblemType::multi_label_classification;
  else
    fail("{}: problem_type is '{}', expected regression, single_label_classification or multi_label_classification",
         fields.where(), printable(problem));
}

}  // namespace mamba2
