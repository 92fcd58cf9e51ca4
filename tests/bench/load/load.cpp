// load.cpp: the load generator behind tests/bench/load.py. On 07's loop, one thread.
//
//     build/load --port 9004 --connections 100 --ms 1000 --pid 4711
//
// Prints one line of JSON for each phase. Exit status 0 if every frame came back as it was sent, 1
// if not. tests/bench/MEASURING.md says how to read the numbers.

#include "generator.h"

#include <iostream>
#include <sys/resource.h>

// One descriptor for each connection: use as many as we are allowed to.
void raise_descriptor_limit() {
    rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char** argv) {
    Plan plan;
    Options options = parse_plan(argc, argv, plan);
    raise_descriptor_limit();
    Generator generator(options.address);
    auto run = [&](const Plan& phase) {
        const Report& report = generator.run(phase);
        print(report);
        return report.good();
    };

    if (!plan.lines) return run(plan) ? 0 : 1;
    for (std::string line; std::getline(std::cin, line);)
        if (!run(parse_line(line, plan))) return 1;
}
