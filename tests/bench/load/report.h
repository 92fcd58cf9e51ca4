// report.h: what a phase has measured, as one line of JSON.

#pragma once

#include "histogram.h"
#include "plan.h"
#include "usage.h"

#include <cstdio>
#include <map>
#include <string>

struct Report {
    Plan plan;
    int wanted = 0;  // connections
    int served = 0;  // of them, those that have had a first echo
    std::string failed{};  // why there was no timed part; empty if there was one
    std::uint64_t messages = 0;  // echoes that came in the timed part
    std::uint64_t bulk_messages = 0;
    std::uint64_t late = 0;  // sent before its end and awaited after it
    std::uint64_t missing = 0;  // never came
    std::uint64_t wrong = 0;  // connections on which an echo was not what had been sent
    std::uint64_t lost = 0;  // connections that the server has ended
    std::map<std::string, int> errors{};  // why, and how often
    Histogram latency{};  // ns
    Usage begin{}, end{};  // of the timed part

    bool good() const { return failed.empty() && missing + wrong + lost == 0; }
};

inline void print_counts(const char* name, const std::map<std::string, std::int64_t>& begin,
                         std::map<std::string, std::int64_t> end) {
    std::printf(", \"%s\": {", name);
    const char* comma = "";
    for (const auto& [key, value] : end) {
        auto before = begin.find(key);
        std::printf("%s\"%s\": %lld", comma, key.c_str(),
                    static_cast<long long>(value - (before == begin.end() ? 0 : before->second)));
        comma = ", ";
    }
    std::printf("}");
}

inline void print_latency(const Histogram& h) {
    std::printf(
        ", \"latency_us\": {\"min\": %.3f, \"mean\": %.3f, \"p50\": %.3f, "
        "\"p90\": %.3f, \"p99\": %.3f, \"p999\": %.3f, \"max\": %.3f, "
        "\"relative_error\": %.4f}",
        double(h.least()) / 1e3, h.mean() / 1e3, double(h.at(0.5)) / 1e3, double(h.at(0.9)) / 1e3,
        double(h.at(0.99)) / 1e3, double(h.at(0.999)) / 1e3, double(h.most()) / 1e3,
        Histogram::relative_error);
}

inline void print_usage(const Report& r) {
    auto delta = [&r](auto member) {
        return static_cast<long long>(r.end.*member - r.begin.*member);
    };
    std::printf(", \"seconds\": %.6f, \"load_cpu\": %.6f", double(delta(&Usage::time)) / 1e9,
                double(delta(&Usage::own_cpu)) / 1e9);
    if (r.plan.pid != 0)
        std::printf(
            ", \"server_cpu\": %.6f, \"rss_kib\": %lld, \"peak_kib\": %lld, "
            "\"switches\": %lld, \"preemptions\": %lld",
            double(delta(&Usage::cpu)) / 1e9, static_cast<long long>(r.end.rss),
            static_cast<long long>(r.end.peak), delta(&Usage::switches),
            delta(&Usage::preemptions));
    if (!r.end.calls.empty()) print_counts("calls", r.begin.calls, r.end.calls);
}

inline void print(const Report& r) {
    const Plan& p = r.plan;
    std::printf(
        "{\"mode\": \"%s\", \"connections\": %d, \"in_flight\": %d, \"size\": %d, "
        "\"idle\": %d, \"bulk\": %d, \"rate\": %d, ",
        p.churn  ? "churn"
        : p.rate ? "open"
                 : "closed",
        p.churn ? p.churn : p.connections, p.in_flight, p.size, p.idle, p.bulk, p.rate);
    std::printf("\"wanted\": %d, \"served\": %d, \"failed\": \"%s\"", r.wanted, r.served,
                r.failed.c_str());
    std::printf(
        ", \"messages\": %llu, \"bulk_messages\": %llu, \"late\": %llu, "
        "\"missing\": %llu, \"wrong\": %llu, \"lost\": %llu",
        static_cast<unsigned long long>(r.messages),
        static_cast<unsigned long long>(r.bulk_messages), static_cast<unsigned long long>(r.late),
        static_cast<unsigned long long>(r.missing), static_cast<unsigned long long>(r.wrong),
        static_cast<unsigned long long>(r.lost));
    print_latency(r.latency);
    if (r.failed.empty()) print_usage(r);
    print_counts("errors", {}, {r.errors.begin(), r.errors.end()});
    std::printf("}\n");
    std::fflush(stdout);
}
