#include "mamba2/ops/thread_communicator.h"

#include <cstring>

#include "mamba2/base/error.h"

namespace mamba2 {

void Meeting::wait() {
  std::unique_lock lock(mutex_);
  const std::uint64_t round = round_;
  if (!off_ && ++waiting_ == size_) {
    waiting_ = 0;
    ++round_;
    changed_.notify_all();
  }
  changed_.wait(lock, [&] { return off_ || round_ != round; });
  require(round_ != round, "another rank of the model has failed");
}

void Meeting::call_off() noexcept {
  const std::scoped_lock lock(mutex_);
  off_ = true;
  changed_.notify_all();
}

namespace {

/// What the ranks share.
struct Table {
  explicit Table(int ranks) : meeting(ranks), data(static_cast<std::size_t>(ranks)) {}
  Meeting meeting;
  std::vector<void*> data;  // of each rank, in the call at hand
};

/// Elements [begin, end) of every rank become their sum.
template <class T>
void sum_part(const std::vector<void*>& data, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    double sum = 0;
    for (void* const of_rank : data) sum += static_cast<double>(static_cast<const T*>(of_rank)[i]);
    for (void* const of_rank : data) static_cast<T*>(of_rank)[i] = static_cast<T>(sum);
  }
}

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(int rank, int size, std::shared_ptr<Table> table)
      : Communicator(rank, size), table_(std::move(table)) {}

  /// Each rank makes a part of the sum, for all.
  void all_reduce(const Tensor& data, void*) override {
    require(data.dtype == DType::f32 || data.dtype == DType::f64, "ranks on the host can't add up {}",
            name(data.dtype));
    const std::int64_t count = data.elements(), begin = count * rank() / size(), end = count * (rank() + 1) / size();
    meet_with(data);
    if (data.dtype == DType::f32)
      sum_part<float>(table_->data, begin, end);
    else
      sum_part<double>(table_->data, begin, end);
    table_->meeting.wait();
  }

  void broadcast(const Tensor& data, void*) override {
    meet_with(data);
    if (rank() != 0) std::memcpy(data.data, table_->data.front(), data.bytes());
    table_->meeting.wait();
  }

  void abort() noexcept override { table_->meeting.call_off(); }

 private:
  void meet_with(const Tensor& data) {
    require(data.contiguous(), "what ranks share is {}, with gaps", to_string(data.shape));
    table_->data[static_cast<std::size_t>(rank())] = data.data;
    table_->meeting.wait();
  }

  std::shared_ptr<Table> table_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int ranks) {
  const auto table = std::make_shared<Table>(ranks);
  std::vector<std::unique_ptr<Communicator>> made;
  for (int rank = 0; rank < ranks; ++rank) made.push_back(std::make_unique<ThreadCommunicator>(rank, ranks, table));
  return made;
}

}  // namespace mamba2
