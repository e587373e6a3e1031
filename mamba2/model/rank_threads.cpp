#include "mamba2/model/rank_threads.h"

#include "mamba2/base/error.h"

namespace mamba2 {

RankThreads::RankThreads(int ranks, std::function<void()> on_failure) : on_failure_(std::move(on_failure)) {
  for (int rank = 1; rank < ranks; ++rank) threads_.emplace_back([this, rank] { serve(rank); });
}

RankThreads::~RankThreads() {
  {
    const std::scoped_lock lock(mutex_);
    stop_ = true;
  }
  called_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void RankThreads::run(const std::function<void(int)>& work) {
  require(!failure_, "a rank of this model has failed, and the others can't go on without it: load the model anew");
  {
    const std::scoped_lock lock(mutex_);
    work_ = &work;
    unfinished_ = static_cast<int>(threads_.size());
    ++calls_;
  }
  called_.notify_all();
  work_as(0);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return unfinished_ == 0; });
  if (failure_) std::rethrow_exception(failure_);
}

void RankThreads::serve(int rank) {
  for (std::uint64_t seen = 0;; ++seen) {
    {
      std::unique_lock lock(mutex_);
      called_.wait(lock, [&] { return stop_ || calls_ != seen; });
      if (stop_) return;
    }
    work_as(rank);
    const std::scoped_lock lock(mutex_);
    if (--unfinished_ == 0) done_.notify_one();
  }
}

void RankThreads::work_as(int rank) noexcept {
  try {
    (*work_)(rank);
  } catch (...) {
    const std::scoped_lock lock(mutex_);
    if (failure_) return;
    failure_ = std::current_exception();
    on_failure_();
  }
}

}  // namespace mamba2
