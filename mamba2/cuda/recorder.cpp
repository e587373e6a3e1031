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
  for (Run& run : known_) release(run);
}

void Recorder::release(Run& run) noexcept {
  if (run.graph != nullptr) (void)cudaGraphExecDestroy(run.graph);
  run.graph = nullptr;
}

/// The ops so far are how this run begins.
bool Recorder::continues(const Run& run) const {
  return words_.size() <= run.words.size() && std::equal(words_.begin(), words_.end(), run.words.begin());
}

void Recorder::add(const std::vector<std::uint64_t>& words, Launch launch) {
  const bool was_held = ops_ == held_.size();
  const std::size_t before = words_.size();
  words_.insert(words_.end(), words.begin(), words.end());
  ++ops_;
  const bool still =
      match_ != known_.end() && words_.size() <= match_->words.size() &&
      std::equal(words.begin(), words.end(), match_->words.begin() + static_cast<std::ptrdiff_t>(before));
  if (!still) {
    match_ = known_.end();
    if (was_held) match_ = std::find_if(known_.begin(), known_.end(), [&](const Run& run) { return continues(run); });
  }
  held_.push_back(std::move(launch));
  if (match_ == known_.end()) launch_held();
}

void Recorder::launch_held() {
  launching_ = true;
  std::vector<Launch> held;
  held.swap(held_);
  try {
    for (const Launch& launch : held) launch();
  } catch (...) {
    launching_ = false;
    begin();
    throw;
  }
  launching_ = false;
}

void Recorder::begin() {
  words_.clear();
  held_.clear();
  match_ = known_.end();
  ops_ = 0;
}

void Recorder::remember() {
  if (ops_ < least_ops) return;
  if (known_.size() >= most_runs) {
    release(known_.back());
    known_.pop_back();
  }
  Run run;
  run.words = words_;
  run.generation = generation_;
  known_.push_front(std::move(run));
}

void Recorder::record(Run& run) {
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin to record a graph");
  std::exception_ptr failure;
  try {
    launch_held();
    finish_();
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
  const bool all_held = held_.size() == ops_;
  if (all_held && match_ != known_.end() && match_->words.size() != words_.size())
    match_ = std::find_if(known_.begin(), known_.end(), [&](const Run& run) { return run.words == words_; });
  if (!all_held || match_ == known_.end()) {
    if (!held_.empty()) launch_held();
    finish_();
    remember();
    begin();
    return;
  }
  const auto run = match_;
  try {
    if (run->generation != generation_) {
      release(*run);
      launch_held();
      finish_();
      run->generation = generation_;  // what the launches themselves changed is settled
    } else {
      if (run->graph == nullptr) record(*run);
      check(cudaGraphLaunch(run->graph, stream_), "launch a graph");
    }
  } catch (...) {
    begin();
    throw;
  }
  known_.splice(known_.begin(), known_, run);
  begin();
}

}  // namespace mamba2::cuda
