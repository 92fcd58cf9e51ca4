// libevent.cpp: the framed echo on libevent's bufferevents. Whole frames move from the input to the
// output without being copied.

#include "07-evloop/frame.h"
#include "common/net.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

void on_read(bufferevent* connection, void*) {
    evbuffer* input = bufferevent_get_input(connection);
    for (;;) {
        char header[frame_header_size];
        ev_ssize_t n = evbuffer_copyout(input, header, sizeof header);
        Frame frame = parse_frame({header, static_cast<std::size_t>(n)});
        if (frame.status == FrameStatus::bad_magic || frame.status == FrameStatus::too_long)
            return bufferevent_free(connection);
        if (static_cast<std::size_t>(n) < sizeof header) return;

        std::uint32_t length;
        std::memcpy(&length, header + frame_magic.size(), sizeof length);
        std::size_t size = frame_header_size + ntohl(length);
        if (evbuffer_get_length(input) < size) return;
        evbuffer_remove_buffer(input, bufferevent_get_output(connection), size);
    }
}

void on_event(bufferevent* connection, short events, void*) {
    if (events & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) bufferevent_free(connection);
}

void on_accept(evconnlistener* listener, evutil_socket_t fd, sockaddr*, int, void*) {
    event_base* base = evconnlistener_get_base(listener);
    bufferevent* connection = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_set_max_single_read(connection, 64 << 10);  // the default is 16 KiB
    bufferevent_set_max_single_write(connection, 64 << 10);
    bufferevent_setcb(connection, on_read, nullptr, on_event, nullptr);
    bufferevent_enable(connection, EV_READ | EV_WRITE);
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, "libevent", 9100);
    Fd socket = listen_on(options, SOCK_NONBLOCK);
    event_base* base = event_base_new();
    unsigned flags = LEV_OPT_CLOSE_ON_EXEC;
    evconnlistener* listener =
        evconnlistener_new(base, on_accept, nullptr, flags, SOMAXCONN, socket.get());
    announce(options);
    event_base_dispatch(base);
    evconnlistener_free(listener);
    event_base_free(base);
}
