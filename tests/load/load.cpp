// load.cpp: the load generator behind tests/load.py. On 07's loop, one thread.
//
//     build/load --port 9004 --connections 100 --ms 1000 --pid 4711
//     build/load --port 9004 --idle 10 --then --idle 1000     two phases, one after the other
//
// Prints one JSON object. Exit status 0 if every frame of every phase came back as it was sent, 1
// if not. tests/MEASURING.md says how to read the numbers.

#include "generator.h"

#include <sys/resource.h>

// One descriptor for each connection: use as many as we are allowed to.
void raise_descriptor_limit() {
    rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char** argv) {
    Command command = parse_command(argc, argv);
    raise_descriptor_limit();
    Generator generator(command);
    const std::vector<Report>& reports = generator.run();
    print(reports);
    return std::all_of(reports.begin(), reports.end(), [](auto& r) { return r.good(); }) ? 0 : 1;
}
