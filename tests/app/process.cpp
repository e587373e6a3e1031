#include "tests/app/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <stdexcept>

namespace mamba2 {
namespace {

constexpr auto deadline = std::chrono::minutes(9);

struct Pipe {
  int read_end = -1, write_end = -1;
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    read_end = ends[0], write_end = ends[1];
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() { close_read(), close_write(); }
  void close_read() { close_end(read_end); }
  void close_write() { close_end(write_end); }

 private:
  static void close_end(int& end) {
    if (end >= 0) close(end);
    end = -1;
  }
};

[[noreturn]] void become(const std::vector<std::string>& arguments, const RunOptions& options, int in, int out,
                         int err) {
  std::signal(SIGPIPE, SIG_DFL);
  if (options.stdout_is_full) out = open("/dev/full", O_WRONLY);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  if (options.largest_file != RLIM_INFINITY) {
    std::signal(SIGXFSZ, SIG_IGN);  // writes then fail with EFBIG
    const rlimit limit{options.largest_file, options.largest_file};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  for (const std::string& variable : options.environment) putenv(const_cast<char*>(variable.c_str()));
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  _exit(127);
}

/// Feeds and drains the pipes until the program has closed its ends.
class Exchange {
 public:
  Exchange(pid_t pid, const RunOptions& options, Pipe& in, Pipe& out, Pipe& err, ProcessResult& result)
      : pid_(pid), options_(options), in_(in), out_(out), err_(err), result_(result) {
    fcntl(in_.write_end, F_SETFL, O_NONBLOCK);
  }

  void run() {
    const auto end = std::chrono::steady_clock::now() + deadline;
    while (out_.read_end >= 0 || err_.read_end >= 0) {
      if (std::chrono::steady_clock::now() > end) {
        ADD_FAILURE() << "the program did not end";
        kill(pid_, SIGKILL);
        return;
      }
      step();
    }
  }

 private:
  void step() {
    if (fed_ == options_.input.size()) in_.close_write();
    std::array<pollfd, 3> ends{{{in_.write_end, POLLOUT, 0}, {out_.read_end, POLLIN, 0}, {err_.read_end, POLLIN, 0}}};
    constexpr int milliseconds = 1;  // how late `when` may be asked
    poll(ends.data(), ends.size(), options_.when && !signalled_ ? milliseconds : 1000);
    if (ends[0].revents != 0) feed();
    if (ends[1].revents != 0) drain(out_, result_.out);
    if (ends[2].revents != 0) drain(err_, result_.err);
    if (result_.out.size() >= options_.close_stdout_after) out_.close_read();
    if (options_.when && !signalled_ && options_.when(result_)) {
      signalled_ = true;
      kill(pid_, options_.signal);
    }
  }

  void feed() {
    const ssize_t bytes = write(in_.write_end, options_.input.data() + fed_, options_.input.size() - fed_);
    if (bytes > 0)
      fed_ += static_cast<std::size_t>(bytes);
    else
      in_.close_write();  // the program reads no more
  }

  static void drain(Pipe& from, std::string& to) {
    char buffer[1 << 16];
    const ssize_t bytes = read(from.read_end, buffer, sizeof(buffer));
    if (bytes > 0)
      to.append(buffer, static_cast<std::size_t>(bytes));
    else
      from.close_read();
  }

  pid_t pid_;
  const RunOptions& options_;
  Pipe &in_, &out_, &err_;
  ProcessResult& result_;
  std::size_t fed_ = 0;
  bool signalled_ = false;
};

}  // namespace

ProcessResult run_process(const std::vector<std::string>& arguments, const RunOptions& options) {
  std::signal(SIGPIPE, SIG_IGN);  // a program may end before it has read its input
  Pipe in, out, err;
  const pid_t pid = fork();
  if (pid == 0) become(arguments, options, in.read_end, out.write_end, err.write_end);
  in.close_read(), out.close_write(), err.close_write();
  ProcessResult result;
  Exchange(pid, options, in, out, err, result).run();
  int status = 0;
  rusage usage{};
  wait4(pid, &status, 0, &usage);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  result.peak_bytes = std::int64_t{usage.ru_maxrss} * 1024;
  return result;
}

ProcessResult mamba2_command(std::vector<std::string> arguments, const RunOptions& options) {
  arguments.insert(arguments.begin(), MAMBA2_BINARY);
  return run_process(arguments, options);
}

}  // namespace mamba2
