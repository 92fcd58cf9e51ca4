// libuv.cpp: the framed echo on libuv. Bytes come in one buffer that all connections share; what
// cannot be sent at once is handed to uv_write().

#include "07-evloop/buffer.h"
#include "07-evloop/frame.h"
#include "common/net.h"

#include <uv.h>

struct Connection {
    uv_tcp_t tcp;
    Buffer in;  // the beginning of a frame
};

struct Write {
    uv_write_t request;
    std::string bytes;
};

void close_connection(Connection* c) {
    uv_close(reinterpret_cast<uv_handle_t*>(&c->tcp),
             [](uv_handle_t* handle) { delete static_cast<Connection*>(handle->data); });
}

bool send_bytes(Connection* c, std::string_view bytes) {
    auto* stream = reinterpret_cast<uv_stream_t*>(&c->tcp);
    uv_buf_t whole = uv_buf_init(const_cast<char*>(bytes.data()), bytes.size());
    int sent = uv_try_write(stream, &whole, 1);
    if (sent < 0 && sent != UV_EAGAIN) return false;
    bytes.remove_prefix(std::max(sent, 0));
    if (bytes.empty()) return true;

    auto* write = new Write{.request = {}, .bytes = std::string(bytes)};
    write->request.data = write;
    uv_buf_t rest = uv_buf_init(write->bytes.data(), write->bytes.size());
    return uv_write(&write->request, stream, &rest, 1, [](uv_write_t* request, int) {
               delete static_cast<Write*>(request->data);
           }) == 0;
}

// Echo the whole frames at the front of `bytes`; how long they are. -1 when it is over.
ssize_t echo(Connection* c, std::string_view bytes) {
    std::size_t length = 0;
    for (;;) {
        Frame frame = parse_frame(bytes.substr(length));
        if (frame.status == FrameStatus::incomplete) break;
        if (frame.status != FrameStatus::complete) return -1;
        length += frame.bytes.size();
    }
    if (length != 0 && !send_bytes(c, bytes.substr(0, length))) return -1;
    return static_cast<ssize_t>(length);
}

bool received(Connection* c, std::string_view bytes) {
    if (c->in.empty()) {  // nothing to join it with
        ssize_t done = echo(c, bytes);
        if (done == -1) return false;
        c->in.append(bytes.substr(done));
        return true;
    }
    c->in.append(bytes);
    ssize_t done = echo(c, c->in.view());
    if (done == -1) return false;
    c->in.consume(done);
    if (c->in.empty()) c->in = Buffer{};
    return true;
}

void on_alloc(uv_handle_t*, std::size_t, uv_buf_t* buffer) {
    static char bytes[64 << 10];
    *buffer = uv_buf_init(bytes, sizeof bytes);
}

void on_read(uv_stream_t* stream, ssize_t n, const uv_buf_t* buffer) {
    auto* c = static_cast<Connection*>(stream->data);
    if (n < 0 || !received(c, {buffer->base, static_cast<std::size_t>(n)})) close_connection(c);
}

void on_connection(uv_stream_t* listener, int status) {
    if (status < 0) return;
    auto* c = new Connection{};
    uv_tcp_init(listener->loop, &c->tcp);
    c->tcp.data = c;
    auto* stream = reinterpret_cast<uv_stream_t*>(&c->tcp);
    if (uv_accept(listener, stream) == 0) uv_read_start(stream, on_alloc, on_read);
    else close_connection(c);
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, "libuv", 9100);
    Fd socket = listen_on(options, SOCK_NONBLOCK);
    uv_tcp_t listener;
    uv_tcp_init(uv_default_loop(), &listener);
    check(uv_tcp_open(&listener, socket.release()), "uv_tcp_open");
    uv_listen(reinterpret_cast<uv_stream_t*>(&listener), SOMAXCONN, on_connection);
    announce(options);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
