#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <stop_token>
#include <vector>

#include "mamba2/generate/engine_job.h"

namespace mamba2 {

/// What other threads have asked of an engine since it last looked.
struct EngineCommands {
  std::vector<std::unique_ptr<EngineJob>> submitted;  // in the order of submission
  std::vector<RequestId> cancelled;
  std::vector<SnapshotId> dropped;
};

/// The way from any thread to the one that steps the engine.  Every member may be called by any thread.
class EngineQueue {
 public:
  explicit EngineQueue(std::int64_t most_waiting) : most_waiting_(most_waiting) {}

  /// Throws Error where too many requests wait already.
  RequestId submit(std::unique_ptr<EngineJob> job);
  void cancel(RequestId id);
  void drop(SnapshotId id);

  bool has_commands();
  EngineCommands take();
  /// One of those that were taken waits no more.
  void stopped_waiting();
  /// Returns when there is something to take, or a stop is asked for.
  void wait(const std::stop_token& stop);

 private:
  bool anything() const;  // under the lock

  const std::int64_t most_waiting_;
  std::mutex mutex_;
  std::condition_variable_any arrived_;
  EngineCommands commands_;
  std::int64_t waiting_ = 0;  // submitted and not yet admitted
  RequestId last_id_ = 0;
};

}  // namespace mamba2
