// usage.h: what two processes have used up: the server, and this one.

#pragma once

#include <array>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <sys/types.h>

inline std::int64_t nanoseconds(clockid_t clock) {
    timespec time{};
    clock_gettime(clock, &time);
    return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
}

// The numbers in a file of "Name:  number ..." lines, such as /proc/PID/status.
inline std::map<std::string, std::int64_t> read_numbers(const std::filesystem::path& path) {
    std::map<std::string, std::int64_t> numbers;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);)
        if (auto colon = line.find(':'); colon != line.npos)
            numbers[line.substr(0, colon)] = std::atoll(line.c_str() + colon + 1);
    return numbers;
}

// The system calls that tests/outside/shim.cpp has counted in the server, by name. Empty if the
// server does not run under it: SHIM_COUNTERS in our environment then names no file.
inline std::map<std::string, std::int64_t> read_calls() {
    struct {  // the layout of struct Shared and struct Counter there
        char format[16];
        std::uint64_t unused[4];
    } header;
    struct {
        char name[16];
        std::uint64_t calls, others[7];
    } counter;

    std::map<std::string, std::int64_t> calls;
    const char* name = std::getenv("SHIM_COUNTERS");
    std::ifstream file(name ? name : "");
    if (!file.read(reinterpret_cast<char*>(&header), sizeof header)) return calls;
    if (std::strcmp(header.format, "shim 1") != 0) return calls;
    while (file.read(reinterpret_cast<char*>(&counter), sizeof counter))
        calls[counter.name] = static_cast<std::int64_t>(counter.calls);
    return calls;
}

// CPU time of a process, of all its threads; 0 if there is none of that number.
inline std::int64_t cpu_of(pid_t pid) {
    clockid_t clock;
    return pid != 0 && clock_getcpuclockid(pid, &clock) == 0 ? nanoseconds(clock) : 0;
}

// Does one of its threads run, or wait for a core? Then it has not yet said all that it will say.
inline bool at_work(pid_t pid) {
    std::error_code gone;
    std::filesystem::directory_iterator task("/proc/" + std::to_string(pid) + "/task", gone), end;
    for (; task != end; task.increment(gone)) {
        std::string line;
        std::getline(std::ifstream(task->path() / "stat"), line);
        if (line.rfind(") R") != std::string::npos) return true;
    }
    return false;
}

// A moment. The difference of two is what was used between them.
struct Usage {
    std::int64_t time = 0;  // ns
    std::int64_t own_cpu = 0;  // ns, of this process
    std::int64_t cpu = 0;  // ns, of the server; all of its threads, user and kernel
    std::int64_t rss = 0, peak = 0;  // KiB of the server
    std::int64_t switches = 0;  // of the server: it went to sleep
    std::int64_t preemptions = 0;  // of the server: it was put aside
    std::map<std::string, std::int64_t> calls;  // of the server
};

// `pid` is the server, or 0. `ends` says on which side of the measured time we are: the clocks are
// read as close to it as possible, and what takes long to read outside of it.
inline Usage usage_of(pid_t pid, bool ends) {
    Usage usage;
    auto read_clocks = [&] {
        usage.cpu = cpu_of(pid);
        usage.own_cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
        usage.time = nanoseconds(CLOCK_MONOTONIC);
    };
    if (ends) read_clocks();
    usage.calls = read_calls();
    if (pid != 0) {
        std::filesystem::path proc = "/proc/" + std::to_string(pid);
        auto status = read_numbers(proc / "status");
        usage.rss = status["VmRSS"];
        usage.peak = status["VmHWM"];
        std::error_code gone;
        std::filesystem::directory_iterator task(proc / "task", gone), end;
        for (; task != end; task.increment(gone)) {
            auto numbers = read_numbers(task->path() / "status");
            usage.switches += numbers["voluntary_ctxt_switches"];
            usage.preemptions += numbers["nonvoluntary_ctxt_switches"];
        }
    }
    if (!ends) read_clocks();
    return usage;
}
