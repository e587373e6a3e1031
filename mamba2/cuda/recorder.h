#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <list>
#include <utility>
#include <vector>

namespace mamba2::cuda {

/// Runs of ops that come again with equal operands, which decoding is made of, as CUDA graphs: the first time such a
/// run is launched op by op, so that work space is taken and products are planned, the second time it is recorded, from
/// then on one launch replays it.
///
/// An op is held back while the ops since the last flush() are how a known run begins; whatever reads or writes memory
/// otherwise must flush() before it.
class Recorder {
 public:
  using Launch = std::function<void()>;

  /// finish launches what launches before it left for later; called once all ops of a run are launched.
  Recorder(cudaStream_t stream, Launch finish) : stream_(stream), finish_(std::move(finish)) {}
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;
  ~Recorder();

  /// True while launches are made: what they call in turn is not to be added.
  bool launching() const { return launching_; }
  /// words: all that `launch` depends on.
  void add(const std::vector<std::uint64_t>& words, Launch launch);
  /// Launches what is held back.  Throws Error for what a launch says.
  void flush();
  /// What is recorded is void: something changed that fingerprints don't tell.
  void invalidate() { ++generation_; }

 private:
  struct Run {
    std::vector<std::uint64_t> words;
    cudaGraphExec_t graph = nullptr;
    std::uint64_t generation = 0;  // when it was launched op by op, which it must be before it is recorded
  };

  void begin();
  bool continues(const Run& run) const;
  void launch_held();
  void record(Run& run);
  void remember();
  void release(Run& run) noexcept;

  cudaStream_t stream_;
  Launch finish_;
  std::list<Run> known_;  // last used first
  std::vector<std::uint64_t> words_;
  std::vector<Launch> held_;
  std::list<Run>::iterator match_ = known_.end();
  std::size_t ops_ = 0;
  std::uint64_t generation_ = 0;
  bool launching_ = false;
};

}  // namespace mamba2::cuda
