#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>

namespace mamba2 {

/// How models are found and fetched.  The defaults of a fresh object touch no environment.
struct HubOptions {
  std::string cache_directory;  // holds models--ORG--NAME; required
  std::string endpoint = "https://huggingface.co";
  std::string token;    // sent to the endpoint's own origin and nowhere else; empty: none
  std::string ca_file;  // certificates to trust in place of the system's; empty: the system's
  bool offline = false;
  bool progress_bars = true;

  std::size_t parallel_downloads = 4;
  /// How often a request is tried again after a broken connection or a busy server without a new byte in between, and
  /// the first wait before it, which doubles each time.
  int retries = 5;
  std::chrono::milliseconds retry_wait{1000};
  std::chrono::seconds connect_timeout{10};
  std::chrono::seconds stall_timeout{10};  // a connection without a byte for so long counts as broken
};

/// What a variable is set to; nothing where it isn't set.
using Environment = std::function<std::optional<std::string>(const char* name)>;

/// The process's own environment.
Environment process_environment();

/// Options as huggingface_hub's Python client takes them from the environment (its constants.py and _auth.py):
///   cache       HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE, else HF_HOME/hub; HF_HOME else XDG_CACHE_HOME/huggingface,
///               else ~/.cache/huggingface; "~" and $VARIABLES in them are expanded
///   token       HF_TOKEN, else HUGGING_FACE_HUB_TOKEN, else the file HF_TOKEN_PATH, else HF_HOME/token; none with
///               HF_HUB_DISABLE_IMPLICIT_TOKEN
///   endpoint    HF_ENDPOINT          offline  HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE
///   timeouts    HF_HUB_ETAG_TIMEOUT (connect), HF_HUB_DOWNLOAD_TIMEOUT (stall), in seconds
///   ca_file     SSL_CERT_FILE        no bars  HF_HUB_DISABLE_PROGRESS_BARS
/// An empty variable counts as not set.  Throws Error that names the variable for an endpoint that is no http(s) URL,
/// a timeout that is no number, a token file that can't be read.
HubOptions hub_options_from_environment(const Environment& environment = process_environment());

}  // namespace mamba2
