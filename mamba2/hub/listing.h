#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mamba2/hub/download.h"
#include "mamba2/hub/name.h"
#include "mamba2/hub/options.h"

namespace mamba2 {

/// What the Hub holds of a model at a revision.
struct Listing {
  std::string commit;
  std::vector<RemoteFile> files;  // at the top and below; hash empty where the server tells none

  const RemoteFile* find(std::string_view name) const;
};

/// Parses what GET /api/models/ORG/NAME/revision/REVISION?blobs=true answers.  Throws Error that names the model and
/// the field; a file's name that leaves the repository's folder is refused.
Listing parse_listing(std::string_view json, const HubName& name);

/// Asks the endpoint.
Listing fetch_listing(const HubName& name, const HubOptions& options);

/// Size and hash of a file from the header fields of a HEAD request, for servers whose listing lacks them.
RemoteFile fetch_file_description(const HubName& name, const std::string& commit, const std::string& file,
                                  const HubOptions& options);

}  // namespace mamba2
