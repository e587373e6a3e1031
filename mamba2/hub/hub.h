#pragma once

#include <string>
#include <string_view>

#include "mamba2/hub/download.h"
#include "mamba2/hub/name.h"
#include "mamba2/hub/options.h"

namespace mamba2 {

/// The local folder of a model on the Hub, ORG/NAME or ORG/NAME@REVISION: config, tokenizer files where the model has
/// any, and one set of weights.
///
/// A snapshot in the Hugging Face cache that holds these is used without a request, whoever put it there; so a branch
/// stays at the commit that it had when it was first fetched.  Where the snapshot has no tokenizer and it isn't known
/// that the model has none, the Hub is asked, and the snapshot used as it is where that can't be.  All else is
/// downloaded into the cache, in the layout of the Python client, which can use it in turn.
///
/// Throws Error, one line that names the model and says what to do: not in the cache and offline, no access, no such
/// model or revision, wrong bytes, a full disk.  Whatever ends a download, the process included, leaves files that a
/// later one goes on from.
std::string resolve_hub_model(std::string_view name, const HubOptions& options, const HubProgress& progress = {});

/// A bar on stderr for resolve_hub_model(), where that is a terminal and the options allow it.
HubProgress download_bar(const HubOptions& options);

}  // namespace mamba2
