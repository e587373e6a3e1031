// Requests from many threads while another one steps the engine; meant for ThreadSanitizer too.

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "mamba2/generate/engine.h"
#include "mamba2/generate/generate.h"
#include "tests/generate/choosing_decoder.h"
#include "tests/generate/engine_support.h"

namespace mamba2 {
namespace {

using test::Ids;

constexpr std::int64_t vocab_size = 50;

/// What clients wait for: the ends of their requests.
class Ends {
 public:
  void add(const SequenceEnd& end) {
    const std::scoped_lock lock(mutex_);
    new_ids_.emplace_back(end.new_ids.begin(), end.new_ids.end());
    reasons_.push_back(end.reason);
    changed_.notify_all();  // under the lock: who waits may be gone after it
  }
  void wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return reasons_.size() >= count; });
  }
  std::vector<Ids> new_ids() const { return new_ids_; }
  std::vector<FinishReason> reasons() const { return reasons_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Ids> new_ids_;
  std::vector<FinishReason> reasons_;
};

Request request_of(const Ids& prompt, std::int64_t new_tokens, Ends& ends) {
  Request request;
  request.prompt_ids = prompt;
  request.config.max_new_tokens = new_tokens;
  request.on_end = [&ends](const SequenceEnd& end) { ends.add(end); };
  return request;
}

void expect_that_many_clients_get_what_each_gets_alone(Decoder& decoder) {
  constexpr int clients = 4, requests_each = 25;
  FormulaDecoder other(vocab_size, 6);
  Engine engine(decoder, {.slots = 3});
  const std::jthread inference([&](const std::stop_token& stop) { engine.run(stop); });
  std::vector<Ids> got(clients * requests_each), expected;
  {
    std::vector<std::jthread> threads;
    for (int client = 0; client < clients; ++client) {
      threads.emplace_back([&, client] {
        for (int i = 0; i < requests_each; ++i) {
          Ends ends;
          engine.submit(request_of({client, i}, 5, ends));
          ends.wait_for(1);
          const int number = client * requests_each + i;
          got[static_cast<std::size_t>(number)] = ends.new_ids()[0];
        }
      });
    }
  }
  GenerationConfig config;
  config.max_new_tokens = 5;
  for (int client = 0; client < clients; ++client)
    for (int i = 0; i < requests_each; ++i)
      expected.push_back(generate(other, std::vector<Ids>{{client, i}}, config).results[0].new_ids);
  EXPECT_EQ(got, expected);
}

TEST(EngineOnAThread, GivesManyClientsWhatEachGetsAlone) {
  FormulaDecoder decoder(vocab_size, 6);
  expect_that_many_clients_get_what_each_gets_alone(decoder);
}

TEST(EngineOnAThread, GivesManyClientsWhatEachGetsAloneWhileItRunsAhead) {
  ChoosingDecoder decoder(vocab_size, 6);
  expect_that_many_clients_get_what_each_gets_alone(decoder);
  EXPECT_GT(decoder.went_on, 0U);
}

TEST(EngineOnAThread, EndsEveryRequestThatIsCancelledFromAnotherThread) {
  constexpr std::size_t count = 20;
  ChoosingDecoder decoder(vocab_size, 6);
  Engine engine(decoder, {.slots = 4});
  const std::jthread inference([&](const std::stop_token& stop) { engine.run(stop); });
  Ends ends;
  for (std::size_t i = 0; i < count; ++i)
    engine.cancel(engine.submit(request_of({static_cast<std::int32_t>(i)}, 1'000'000, ends)));
  ends.wait_for(count);
  EXPECT_EQ(ends.reasons(), std::vector<FinishReason>(count, FinishReason::cancelled));
}

TEST(EngineOnAThread, EndsWhatIsLeftWhenItIsStopped) {
  ChoosingDecoder decoder(vocab_size, 6);
  Engine engine(decoder, {.slots = 1});
  Ends ends;
  std::jthread inference([&](const std::stop_token& stop) { engine.run(stop); });
  for (std::int32_t i = 0; i < 3; ++i) engine.submit(request_of({i}, 1'000'000, ends));
  inference.request_stop();
  inference.join();
  EXPECT_EQ(ends.reasons(), std::vector<FinishReason>(3, FinishReason::cancelled));
}

}  // namespace
}  // namespace mamba2
