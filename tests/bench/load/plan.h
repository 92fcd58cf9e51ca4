// plan.h: what to send, and the command line that says so.

#pragma once

#include "common/options.h"

#include <cstring>
#include <string>
#include <vector>

// One phase: a load, from its first frame to its last echo.
struct Plan {
    int connections = 1;  // that send frames, and are measured
    int in_flight = 1;  // frames that each may have sent without having their echo
    int size = 64;  // bytes of payload
    int idle = 0;  // further connections: one echo each, then silence
    int bulk = 0;  // further connections that send without a pause, and are not measured
    int bulk_size = 64 << 10;  // bytes
    int bulk_in_flight = 16;
    int rate = 0;  // open loop: frames per second, all connections together; 0: closed loop
    int churn = 0;  // so many at a time connect, send one frame, read its echo, and close
    int warm_up = 50;  // ms of the same load before the timed part
    int ms = 300;  // of the timed part
    int count = 0;  // instead of both: the timed part is this many frames, from first to last echo
    int patience = 5000;  // ms without any progress after which what is missing stays missing
    int pid = 0;  // of the server, to read what it uses up; 0: unknown
    int lines = 0;  // phases come from stdin
};

// Read options into `plan`, which holds their defaults. With --lines, phases come from stdin: each
// line has the options of one, over those of the command line.
inline Options parse_plan(int argc, char** argv, Plan& plan) {
    constexpr int million = 1'000'000;
    optind = 0;  // getopt_long() starts anew
    Options server = parse_options(
        argc, argv, "load", 9007,
        {{"connections", &plan.connections, 1, million, "that send frames and are measured"},
         {"in-flight", &plan.in_flight, 1, million, "frames on the way for each of them"},
         {"size", &plan.size, 0, 1 << 20, "bytes of payload"},
         {"idle", &plan.idle, 0, million, "further connections that are silent"},
         {"bulk", &plan.bulk, 0, million, "further ones that send all the time, unmeasured"},
         {"bulk-size", &plan.bulk_size, 0, 1 << 20, "bytes of their payload"},
         {"bulk-in-flight", &plan.bulk_in_flight, 1, million, "frames on the way for each"},
         {"rate", &plan.rate, 0, million, "open loop: frames per second in all; 0: closed"},
         {"churn", &plan.churn, 0, million, "instead: so many at a time connect, send one, close"},
         {"warm-up", &plan.warm_up, 0, million, "ms of load before the timed part"},
         {"ms", &plan.ms, 1, million, "length of the timed part"},
         {"count", &plan.count, 0, 100 * million, "its length in frames, instead of time"},
         {"patience", &plan.patience, 1, million, "ms without progress before giving up"},
         {"pid", &plan.pid, 0, 1 << 22, "of the server: report what it uses up"},
         {"lines", &plan.lines, 0, 1, "1: one phase for each line of options on stdin"}});
    if (plan.churn != 0 && plan.rate != 0)
        usage_error("load", "--churn and --rate are different loads");
    if (plan.churn != 0) plan.connections = 0;
    return server;
}

// The same for one line of stdin.
inline Plan parse_line(std::string line, Plan plan) {
    std::vector<char*> words{line.data()};  // stands for the program's name, and is not looked at
    for (char* word = std::strtok(line.data(), " "); word; word = std::strtok(nullptr, " "))
        words.push_back(word);
    words.push_back(nullptr);
    parse_plan(static_cast<int>(words.size()) - 1, words.data(), plan);
    return plan;
}
