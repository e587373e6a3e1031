#include "tests/hub/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace mamba2::test {
namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

void send_all(int connection, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::send(connection, text.data(), text.size(), MSG_NOSIGNAL);
    if (count <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

/// Everything up to the empty line; requests here have no body.
std::string receive_head(int connection) {
  std::string head;
  std::array<char, 4096> buffer{};
  while (head.find("\r\n\r\n") == std::string::npos) {
    const ssize_t count = ::recv(connection, buffer.data(), buffer.size(), 0);
    if (count <= 0) return {};
    head.append(buffer.data(), static_cast<std::size_t>(count));
  }
  return head;
}

Request parse_request(const std::string& head) {
  Request request;
  std::size_t at = head.find("\r\n");
  const std::string first = head.substr(0, at);
  const std::size_t space = first.find(' ');
  request.method = first.substr(0, space);
  request.target = first.substr(space + 1, first.rfind(' ') - space - 1);
  for (at += 2; head.compare(at, 2, "\r\n") != 0;) {
    const std::size_t end = head.find("\r\n", at);
    const std::string line = head.substr(at, end - at);
    const std::size_t colon = line.find(':');
    request.headers[lower(line.substr(0, colon))] = line.substr(line.find_first_not_of(' ', colon + 1));
    at = end + 2;
  }
  return request;
}

void send_response(int connection, const Request& request, const Response& response) {
  std::string head = "HTTP/1.1 " + std::to_string(response.status) + " Reason\r\nConnection: close\r\n";
  for (const auto& [name, value] : response.headers) head.append(name).append(": ").append(value).append("\r\n");
  if (!response.without_length)
    head += "Content-Length: " + std::to_string(response.announced_length.value_or(response.body.size())) + "\r\n";
  send_all(connection, head + "\r\n");
  if (request.method == "HEAD") return;
  send_all(connection, std::string_view(response.body).substr(0, response.drop_after.value_or(response.body.size())));
  if (!response.stall) return;
  char byte = 0;
  while (::recv(connection, &byte, 1, 0) > 0) continue;
}

}  // namespace

HttpServer::HttpServer(Handler handler) : handler_(std::move(handler)) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  socklen_t length = sizeof(address);
  if (listener_ < 0 || ::bind(listener_, generic, length) != 0 || ::listen(listener_, SOMAXCONN) != 0 ||
      ::getsockname(listener_, generic, &length) != 0)
    throw std::runtime_error("no loopback server");
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { accept_connections(); });
}

HttpServer::~HttpServer() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const int connection : open_) ::shutdown(connection, SHUT_RDWR);
  }
  ::shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  ::close(listener_);
}

void HttpServer::accept_connections() {
  for (;;) {
    const int connection = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) break;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) {
        ::close(connection);
        break;
      }
      open_.push_back(connection);
    }
    served_.emplace_back([this, connection] { serve(connection); });
  }
  for (std::thread& thread : served_) thread.join();
}

void HttpServer::serve(int connection) {
  const std::string head = receive_head(connection);
  if (!head.empty()) {
    const Request request = parse_request(head);
    send_response(connection, request, handler_(request));
  }
  const std::lock_guard lock(mutex_);
  open_.remove(connection);
  ::close(connection);
}

}  // namespace mamba2::test
