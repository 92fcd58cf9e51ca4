// asio.cpp: the framed echo on Asio. A connection lives as long as one of its operations.

#define ASIO_STANDALONE

#include "07-evloop/buffer.h"
#include "07-evloop/frame.h"
#include "common/net.h"

#include <asio.hpp>
#include <memory>

using asio::ip::tcp;

class Connection : public std::enable_shared_from_this<Connection> {
public:
    explicit Connection(tcp::socket socket) : socket_(std::move(socket)) {}

    void read() {
        constexpr std::size_t room = 64 << 10;
        socket_.async_read_some(asio::buffer(in_.reserve(room), room),
                                [self = shared_from_this()](asio::error_code error, std::size_t n) {
                                    if (!error) self->received(n);
                                });
    }

private:
    void received(std::size_t n) {
        in_.commit(n);
        std::size_t length = 0;
        for (;;) {
            Frame frame = parse_frame(in_.view().substr(length));
            if (frame.status == FrameStatus::incomplete) break;
            if (frame.status != FrameStatus::complete) return;
            length += frame.bytes.size();
        }
        if (length == 0) return read();
        asio::async_write(socket_, asio::buffer(in_.view().data(), length),
                          [self = shared_from_this()](asio::error_code error, std::size_t sent) {
                              if (error) return;
                              self->in_.consume(sent);
                              self->read();
                          });
    }

    tcp::socket socket_;
    Buffer in_;
};

void accept_next(tcp::acceptor& acceptor) {
    acceptor.async_accept([&acceptor](asio::error_code error, tcp::socket socket) {
        if (!error) std::make_shared<Connection>(std::move(socket))->read();
        accept_next(acceptor);
    });
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, "asio", 9100);
    Fd socket = listen_on(options);
    asio::io_context io(1);  // one thread: no locks
    tcp::acceptor acceptor(io, options.address.family() == AF_INET6 ? tcp::v6() : tcp::v4(),
                           socket.release());
    announce(options);
    accept_next(acceptor);
    io.run();
}
