// uri.h: as much of RFC 3986 as a client may write into a Host field and the target of a request.
//
// "9110, 4.2.1" is a section of RFC 9110, which says what of it HTTP allows.

#pragma once

#include <algorithm>
#include <arpa/inet.h>
#include <cctype>
#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <strings.h>

inline bool equal_ignoring_case(std::string_view a, std::string_view b) {
    return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

inline bool is_one_of(char c, std::string_view set) { return set.find(c) != set.npos; }
inline bool is_alphanumeric(unsigned char c) { return std::isalnum(c) != 0; }
inline bool is_digit(unsigned char c) { return std::isdigit(c) != 0; }
inline bool is_unreserved(char c) { return is_alphanumeric(c) || is_one_of(c, "-._~"); }

// The octet for which "%41" at the front of `text` stands, or -1.
inline int escaped(std::string_view text) {
    if (text.size() < 3 || text[0] != '%') return -1;
    unsigned octet = 0;
    auto [stop, error] = std::from_chars(&text[1], &text[1] + 2, octet, 16);
    return error == std::errc{} && stop == &text[1] + 2 ? static_cast<int>(octet) : -1;
}

// Is it made of what every part of an address may have, and of `others`?
inline bool is_address_text(std::string_view text, std::string_view others) {
    auto allowed = [&](char c) {
        return is_unreserved(c) || is_one_of(c, "!$&'()*+,;=") || is_one_of(c, others);
    };
    while (!text.empty()) {
        bool escape = text[0] == '%';
        if (escape ? escaped(text) == -1 : !allowed(text[0])) return false;
        text.remove_prefix(escape ? 3 : 1);
    }
    return true;
}

// "v7.anything" stands for versions of IP that are still to come (IPvFuture).
inline bool is_future_ip(std::string_view text) {
    std::size_t dot = std::min(text.find('.'), text.size());
    auto is_hex = [](unsigned char c) { return std::isxdigit(c) != 0; };
    return dot >= 2 && (text[0] == 'v' || text[0] == 'V') && dot + 1 < text.size() &&
           std::all_of(&text[1], &text[dot], is_hex) && !is_one_of('%', text) &&
           is_address_text(text.substr(dot + 1), ":");
}

// A name, an IPv4 address, which looks like a name, or another address in brackets.
inline bool is_host(std::string_view host) {
    if (!host.starts_with('[')) return is_address_text(host, "");
    std::string address(host.substr(1, host.size() - 2));
    in6_addr unused;
    bool fits = address.find_first_not_of("0123456789abcdefABCDEF:.") == std::string::npos;
    return (fits && inet_pton(AF_INET6, address.c_str(), &unused) == 1) || is_future_ip(address);
}

// host [ ":" port ] (9110, 7.2). Each of the two may be empty, and `port` may be missing.
struct Authority {
    std::string_view host;
    std::optional<std::string_view> port{};
};

inline std::optional<Authority> parse_authority(std::string_view text) {
    std::size_t end = text.starts_with('[') ? text.find(']') + 1 : text.find(':');
    Authority authority{text.substr(0, end)};
    std::string_view rest = text.substr(authority.host.size());
    if (rest.starts_with(':')) authority.port = rest.substr(1);
    bool port_fits = authority.port ? std::ranges::all_of(*authority.port, is_digit) : rest.empty();
    if (!port_fits || !is_host(authority.host)) return {};
    return authority;
}

// The path in "/path?query", or in "http://host/path?query", which is what proxies are sent and
// every server must understand (9112, 3.2.2). Empty if it is neither.
inline std::string_view path_of(std::string_view target) {
    constexpr std::string_view scheme = "http://";
    bool absolute = equal_ignoring_case(target.substr(0, scheme.size()), scheme);
    if (absolute) {
        target.remove_prefix(scheme.size());
        auto authority = parse_authority(target.substr(0, target.find_first_of("/?")));
        if (!authority || authority->host.empty()) return {};  // 9110, 4.2.1
        target.remove_prefix(std::min(target.find_first_of("/?"), target.size()));
    }
    std::string_view path = target.substr(0, target.find('?'));
    std::string_view query = target.substr(path.size());
    if (!is_address_text(path, ":@/") || !is_address_text(query, ":@/?")) return {};
    if (path.empty() && absolute) return "/";
    return path.starts_with('/') ? path : std::string_view{};
}

// "/%62ytes" is "/bytes" (9110, 4.2.3). But "%2F" is no end of a segment, and stays as it is.
inline std::string plain_path(std::string_view path) {
    std::string plain;
    for (std::size_t i = 0; i < path.size(); ++i) {
        int octet = escaped(path.substr(i));
        bool replace = octet != -1 && is_unreserved(static_cast<char>(octet));
        plain += replace ? static_cast<char>(octet) : path[i];
        if (replace) i += 2;
    }
    return plain;
}
