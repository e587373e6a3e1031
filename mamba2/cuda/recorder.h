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
  /// words: all that an op's launch depends on; make_launch() gives the launch where no known one serves.
  template <class MakeLaunch>
  void add(const std::vector<std::uint64_t>& words, MakeLaunch&& make_launch) {
    if (!held(words)) launch_now(make_launch());
  }
  /// Launches what is held back.  Throws Error for what a launch says.
  void flush();
  /// Graphs are void: memory that launches ask for, and fingerprints don't tell, moved.
  void invalidate() { ++generation_; }
  /// All runs are void: what launches refer to is gone.  Nothing is held back.
  void forget();

 private:
  struct Run {
    std::vector<std::uint64_t> words;  // of all its ops, end to end
    std::vector<Launch> launches;      // one an op
    cudaGraphExec_t graph = nullptr;
    std::uint64_t generation = 0;  // when it was launched op by op, which it must be before it is recorded
  };

  void begin();
  bool held(const std::vector<std::uint64_t>& words);
  bool find_run();
  void launch_now(Launch launch);
  void launch_held();
  void launch_all(const Run& run);
  void record(Run& run);
  void remember();
  static void release(Run& run) noexcept;

  cudaStream_t stream_;
  Launch finish_;
  std::list<Run> known_;  // last used first
  Run now_;               // ops since the last flush; launches only where they are made already
  std::size_t ops_ = 0;   // of them
  std::list<Run>::iterator match_ = known_.end();  // begins with all of them, none of which is launched
  std::uint64_t generation_ = 0;
  bool launching_ = false;
};

}  // namespace mamba2::cuda
