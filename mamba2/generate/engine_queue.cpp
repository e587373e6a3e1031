#include "mamba2/generate/engine_queue.h"

#include <utility>

#include "mamba2/base/error.h"

namespace mamba2 {

RequestId EngineQueue::submit(std::unique_ptr<EngineJob> job) {
  RequestId id = 0;
  {
    const std::scoped_lock lock(mutex_);
    require(waiting_ < most_waiting_, "{} requests wait already, which is the most that may", waiting_);
    ++waiting_;
    id = ++last_id_;
    job->id = id;
    commands_.submitted.push_back(std::move(job));
  }
  arrived_.notify_one();
  return id;
}

void EngineQueue::cancel(RequestId id) {
  {
    const std::scoped_lock lock(mutex_);
    commands_.cancelled.push_back(id);
  }
  arrived_.notify_one();
}

void EngineQueue::drop(SnapshotId id) {
  {
    const std::scoped_lock lock(mutex_);
    commands_.dropped.push_back(id);
  }
  arrived_.notify_one();
}

bool EngineQueue::has_commands() {
  const std::scoped_lock lock(mutex_);
  return anything();
}

EngineCommands EngineQueue::take() {
  const std::scoped_lock lock(mutex_);
  return std::exchange(commands_, {});
}

void EngineQueue::stopped_waiting() {
  const std::scoped_lock lock(mutex_);
  --waiting_;
}

void EngineQueue::wait(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  arrived_.wait(lock, stop, [this] { return anything(); });
}

bool EngineQueue::anything() const {
  return !commands_.submitted.empty() || !commands_.cancelled.empty() || !commands_.dropped.empty();
}

}  // namespace mamba2
