#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/tokenizer/backend.h"
#include "mamba2/tokenizer/decoder.h"
#include "mamba2/tokenizer/json_field.h"
#include "mamba2/tokenizer/normalizer.h"
#include "mamba2/tokenizer/pre_tokenizer.h"

namespace mamba2 {

// The parts of a tokenizer.json that stand beside its model.  Each throws Error that names the field; null is no part.

/// Null where the file has none.
NormalizerPtr build_normalizer(const JsonField& field);

/// Whether ByteLevel, as the last step, writes bytes as characters or leaves them to a model that takes bytes.
enum class LastByteLevel { writes_characters, leaves_bytes };
PreTokenizerPtr build_pre_tokenizer(const JsonField& field, LastByteLevel last);
/// Whether the last step is ByteLevel.
bool ends_with_byte_level(const JsonField& field);

Affixes build_post_processor(const JsonField& field);

std::vector<DecodeStep> build_decoder(const JsonField& field);

}  // namespace mamba2
