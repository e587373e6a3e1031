#pragma once

#include <gtest/gtest.h>

#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "mamba2/generate/engine.h"
#include "tests/generate/formula_decoder.h"

namespace mamba2::test {

using Ids = std::vector<std::int32_t>;

/// What became of a sequence.
struct Result {
  Ids streamed;  // by on_token
  Ids new_ids;   // by on_end
  FinishReason reason = FinishReason::cancelled;
  std::exception_ptr error;
  int ends = 0;
};

inline std::string error_message(const std::exception_ptr& error) {
  if (!error) return "";
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& thrown) {
    return thrown.what();
  }
}

/// Collects what an engine says of requests, which it numbers as the engine does: from 1, in the order they are made.
class Results {
 public:
  Request request(Ids prompt, const GenerationConfig& config) {
    auto mine = std::make_shared<std::map<std::int64_t, Result>>();
    requests_.push_back(mine);
    Request made;
    made.prompt_ids = std::move(prompt);
    made.config = config;
    made.on_token = [mine](std::int64_t sequence, std::int32_t id) { (*mine)[sequence].streamed.push_back(id); };
    made.on_end = [mine](const SequenceEnd& end) {
      Result& result = (*mine)[end.sequence];
      result.new_ids.assign(end.new_ids.begin(), end.new_ids.end());
      result.reason = end.reason;
      result.error = end.error;
      ++result.ends;
    };
    return made;
  }

  /// Of a request that has ended.
  const Result& of(RequestId id, std::int64_t sequence = 0) const {
    const Result& result = (*requests_.at(id - 1))[sequence];
    EXPECT_EQ(result.ends, 1) << "request " << id;
    return result;
  }

 private:
  std::vector<std::shared_ptr<std::map<std::int64_t, Result>>> requests_;
};

/// Steps the engine until all arrivals have come and ended: each is submitted at its at_step as request_of(arrival) and
/// cancelled at its cancelled_at_step.  Returns their ids.
template <class Arrival, class RequestOf>
std::vector<RequestId> run_schedule(Engine& engine, const std::vector<Arrival>& arrivals, RequestOf&& request_of) {
  std::vector<RequestId> ids(arrivals.size());
  std::size_t arrived = 0;
  bool busy = true;
  for (std::int64_t step = 0; busy || arrived < arrivals.size(); ++step) {
    for (std::size_t i = 0; i < arrivals.size(); ++i) {
      if (arrivals[i].at_step == step) {
        ids[i] = engine.submit(request_of(arrivals[i]));
        ++arrived;
      }
      if (arrivals[i].cancelled_at_step == step && ids[i] != 0) engine.cancel(ids[i]);
    }
    busy = engine.step();
  }
  return ids;
}

}  // namespace mamba2::test
