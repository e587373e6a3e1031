#include "mamba2/cuda/recorder.h"

#include <algorithm>
#include <exception>

#include "mamba2/cuda/check.h"

namespace mamba2::cuda {
namespace {

constexpr std::size_t most_runs = 32;
constexpr std::size_t least_ops = 4;  // fewer are launched as fast one by one

}  // namespace

Recorder::~Recorder() {
  forget();
}

void Recorder::forget() {
  for (Run& run : known_) release(run);
  known_.clear();
  begin();
}

void Recorder::release(Run& run) noexcept {
  if (run.graph != nullptr) (void)cudaGraphExecDestroy(run.graph);
  run.graph = nullptr;
}

void Recorder::begin() {
  now_.words.clear();
  now_.launches.clear();
  ops_ = 0;
  match_ = known_.end();
}

/// A run that begins with the ops so far.
bool Recorder::find_run() {
  const std::vector<std::uint64_t>& words = now_.words;
  match_ = std::find_if(known_.begin(), known_.end(), [&](const Run& run) {
    return words.size() <= run.words.size() && std::equal(words.begin(), words.end(), run.words.begin());
  });
  return match_ != known_.end();
}

/// Counts an op.  True where a known run goes on with it; else what was held back is launched.
bool Recorder::held(const std::vector<std::uint64_t>& words) {
  const bool first = ops_ == 0, was_held = match_ != known_.end();
  const std::size_t before = now_.words.size();
  now_.words.insert(now_.words.end(), words.begin(), words.end());
  if (was_held) {
    const std::vector<std::uint64_t>& known = match_->words;
    const bool goes_on = now_.words.size() <= known.size() &&
                         std::equal(words.begin(), words.end(), known.begin() + static_cast<std::ptrdiff_t>(before));
    const auto last = match_;
    if (!goes_on && !find_run()) {
      match_ = last;
      launch_held();
    }
  } else if (first) {
    find_run();
  }
  ++ops_;
  return match_ != known_.end();
}

/// Launches the ops so far, all of which a known run begins with.
void Recorder::launch_held() {
  const auto run = match_;
  match_ = known_.end();
  for (std::size_t i = 0; i < ops_; ++i) launch_now(run->launches[i]);
}

void Recorder::launch_now(Launch launch) {
  launching_ = true;
  try {
    launch();
  } catch (...) {
    launching_ = false;
    begin();
    throw;
  }
  launching_ = false;
  now_.launches.push_back(std::move(launch));
}

void Recorder::launch_all(const Run& run) {
  launching_ = true;
  try {
    for (const Launch& launch : run.launches) launch();
    finish_();
  } catch (...) {
    launching_ = false;
    throw;
  }
  launching_ = false;
}

void Recorder::remember() {
  if (ops_ < least_ops) return;
  if (known_.size() >= most_runs) {
    release(known_.back());
    known_.pop_back();
  }
  known_.push_front(std::move(now_));
  known_.front().generation = generation_;
  now_ = {};
}

void Recorder::record(Run& run) {
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin to record a graph");
  std::exception_ptr failure;
  try {
    launch_all(run);
  } catch (...) {
    failure = std::current_exception();
  }
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream_, &graph);
  if (failure) {
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    std::rethrow_exception(failure);
  }
  check(ended, "record a graph");
  const cudaError_t made = cudaGraphInstantiate(&run.graph, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(made, "make a graph");
}

void Recorder::flush() {
  if (ops_ == 0 || launching_) return;
  // Of the runs that begin with these ops the one that ends with them too.
  if (match_ != known_.end() && match_->words.size() != now_.words.size()) {
    const auto longer = match_;
    match_ = std::find_if(known_.begin(), known_.end(), [&](const Run& run) { return run.words == now_.words; });
    if (match_ == known_.end()) {
      match_ = longer;
      launch_held();
    }
  }
  if (match_ == known_.end()) {
    try {
      finish_();
    } catch (...) {
      begin();
      throw;
    }
    remember();
    begin();
    return;
  }
  const auto run = match_;
  begin();
  if (run->generation != generation_) {
    release(*run);
    launch_all(*run);
    run->generation = generation_;  // what the launches themselves changed is settled
  } else {
    if (run->graph == nullptr) record(*run);
    check(cudaGraphLaunch(run->graph, stream_), "launch a graph");
  }
  known_.splice(known_.begin(), known_, run);
}

}  // namespace mamba2::cuda
