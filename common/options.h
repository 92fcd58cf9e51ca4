// options.h: You need not read this. It is the command line that all seven servers share.

#pragma once

#include "common/address.h"
#include "common/fd.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <getopt.h>
#include <string>
#include <vector>

// What a stage is called, and the port that it takes if none is given.
struct Stage {
    const char* name;
    int port;
};

struct Options {
    const char* name;  // of the stage: "04-epoll-lt"
    Address address;  // where to listen
};

// A further option of one program: `--name N`, with its limits and its line of --help.
struct NumberOption {
    const char* name;
    int* value;  // holds the default, receives what was given
    int min, max;
    const char* help;
    int standard = *value;  // the default, for --help
};

// One line on stderr, and the exit status for bad usage.
[[noreturn]] inline void usage_error(const char* name, const std::string& message) {
    say("%s: %s (try --help)", name, message.c_str());
    std::exit(2);
}

inline int parse_number(const char* program, const NumberOption& option, const char* text) {
    const char* end = text + std::string(text).size();
    int number = 0;
    auto [stop, error] = std::from_chars(text, end, number);
    if (error == std::errc{} && stop == end && number >= option.min && number <= option.max)
        return number;
    usage_error(program, std::string("--") + option.name + " " + text +
                             ": not a whole number from " + std::to_string(option.min) + " to " +
                             std::to_string(option.max));
}

[[noreturn]] inline void print_help(const Options& options,
                                    const std::vector<NumberOption>& numbers) {
    std::printf("Usage: %s [options]\n\n", options.name);
    std::printf("  --%-16s %s (default %s)\n", "host ADDR", "numeric IPv4 or IPv6 address",
                "127.0.0.1");
    for (const NumberOption& o : numbers)
        std::printf("  --%-16s %s (default %d)\n", (std::string(o.name) + " N").c_str(), o.help,
                    o.standard);
    std::printf("  --%-16s %s\n", "help", "this text");
    check(std::fflush(stdout), "stdout");
    std::exit(0);
}

// Read the command line. Ends the process: after --help with 0, on bad usage with one line on
// stderr and 2. `more` are options that this program alone has.
inline Options parse_options(int argc, char** argv, const char* name, int port,
                             std::vector<NumberOption> more = {}) {
    keep_standard_numbers();
    Options options{name, {}};
    std::string host = "127.0.0.1";
    more.insert(more.begin(), {"port", &port, 0, 65535, "TCP port, 0 for any free one"});

    std::vector<option> known{{"help", no_argument, nullptr, 'h'},
                              {"host", required_argument, nullptr, 'a'}};
    for (const NumberOption& o : more) known.push_back({o.name, required_argument, nullptr, 'n'});
    known.push_back({});

    opterr = 0;  // getopt_long() would not say how to get help
    int which = 0;
    int at = 1;  // in argv: "+" has it stop at the first word that is no option
    for (int c; (c = getopt_long(argc, argv, "+:", known.data(), &which)) != -1; at = optind) {
        if (c == '?') usage_error(name, std::string(argv[at]) + ": no such option");
        if (c == ':') usage_error(name, std::string(argv[at]) + ": a value is missing");
        if (c == 'h') print_help(options, more);
        if (c == 'a') host = optarg;
        if (c == 'n') *more[which - 2].value = parse_number(name, more[which - 2], optarg);
    }
    if (optind < argc) usage_error(name, std::string("unexpected argument ") + argv[optind]);

    auto address = parse_address(host, static_cast<std::uint16_t>(port));
    if (!address) usage_error(name, "--host " + host + ": not an IPv4 or IPv6 address");
    options.address = *address;
    return options;
}
