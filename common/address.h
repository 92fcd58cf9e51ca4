// address.h: an IPv4 or IPv6 address with its port, and how it is written.

#pragma once

#include <arpa/inet.h>
#include <cstdint>
#include <cstring>
#include <netdb.h>
#include <netinet/in.h>
#include <optional>
#include <string>
#include <sys/socket.h>

struct Address {
    sockaddr_in6 bytes{};  // the larger of the two families; a sockaddr_in fits
    socklen_t length = sizeof bytes;

    sockaddr* data() { return reinterpret_cast<sockaddr*>(&bytes); }
    const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&bytes); }
    int family() const { return data()->sa_family; }
};

// `host` is a numeric address such as 127.0.0.1 or ::1. Names are not looked up, because the
// resolver blocks. Nothing if it is no such address.
inline std::optional<Address> parse_address(const std::string& host, std::uint16_t port) {
    // getaddrinfo() would take 1.2.3 for 1.2.0.3, as inet_aton(3) does. inet_pton() wants all four.
    in_addr four_numbers;
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_family = inet_pton(AF_INET, host.c_str(), &four_numbers) == 1 ? AF_INET : AF_INET6;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return {};

    Address address;
    address.length = found->ai_addrlen;
    std::memcpy(&address.bytes, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return address;
}

// "127.0.0.1:9000" or "[::1]:9000". "?" for any other family, such as AF_UNIX: its addresses are
// longer than an Address, and `length` says how long they were (getpeername(2)).
inline std::string to_string(const Address& address) {
    if (address.family() != AF_INET && address.family() != AF_INET6) return "?";
    char host[NI_MAXHOST];
    char port[NI_MAXSERV];
    if (getnameinfo(address.data(), address.length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return "?";
    std::string text = address.family() == AF_INET6 ? "[" + std::string(host) + "]" : host;
    return text + ":" + port;
}

// The address that a socket is bound to. Port 0 has become a real one by then.
inline Address local_address(int socket) {
    Address address;
    getsockname(socket, address.data(), &address.length);
    return address;
}

// The other end of a connection, as text. "?" once the connection is gone (ENOTCONN).
inline std::string peer_name(int socket) {
    Address address;
    if (getpeername(socket, address.data(), &address.length) == -1) return "?";
    return to_string(address);
}
