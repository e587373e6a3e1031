#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace mamba2::test {

struct Request {
  std::string method, target;
  std::map<std::string, std::string> headers;  // names in lower case

  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

struct Response {
  int status = 200;
  std::map<std::string, std::string> headers;
  std::string body;
  std::optional<std::size_t> announced_length{};  // Content-Length, where it is not the body's
  bool without_length = false;                    // the end of the connection is the end of the body
  std::optional<std::size_t> drop_after{};        // close the connection after so many bytes of the body
  bool stall = false;                             // then send no more until the client goes away
};

/// An HTTP/1.1 server on a port of 127.0.0.1 of its own: a thread a connection, one request a connection.  The handler
/// is called from several threads at once.
class HttpServer {
 public:
  using Handler = std::function<Response(const Request&)>;

  explicit HttpServer(Handler handler);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  ~HttpServer();

  std::string address() const { return "http://127.0.0.1:" + std::to_string(port_); }

 private:
  void accept_connections();
  void serve(int connection);

  Handler handler_;
  int listener_ = -1;
  int port_ = 0;
  std::mutex mutex_;
  bool stopping_ = false;          // under mutex_
  std::list<int> open_;            // under mutex_
  std::list<std::thread> served_;  // the accepting thread's until it is joined
  std::thread acceptor_;
};

}  // namespace mamba2::test
