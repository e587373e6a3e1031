#pragma once

#include <string>

#include "mamba2/model/config.h"

namespace mamba2 {

/// Where the parts of a model lie.
struct ModelFiles {
  std::string folder;       ///< holds the config and, as a rule, the tokenizer; of a GGUF file, the file itself
  std::string weights;      ///< the folder, or the one file that was named
  std::string config_file;  ///< config.json, params.json, or a GGUF file, which holds its own

  Mamba2Config read_config() const;
};

/// Finds a model by what a user gives: a folder, a GGUF file, a weights file beside its config, or a Hub name
/// ORG/NAME[@REVISION], which is looked up in the local cache and else downloaded.  Throws Error that says what was
/// looked for.
ModelFiles locate_model(const std::string& path);

}  // namespace mamba2
