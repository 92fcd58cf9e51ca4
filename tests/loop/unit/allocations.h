// allocations.h: operator new, counted, and made to fail on demand.

#pragma once

#include <cstddef>

// Of this thread since its start. The two of memory are of the whole process.
struct Allocations {
    long made = 0;
    long until_failure = -1;  // this many more succeed, then one fails; -1: none fails
};

extern constinit thread_local Allocations allocations;

std::size_t bytes_allocated();  // by operator new, with the allocator's rounding, and not freed

// The next but `k` fails, in this scope. Once.
struct FailAllocation {
    explicit FailAllocation(long k) { allocations.until_failure = k; }
    ~FailAllocation() { allocations.until_failure = -1; }
    bool has_failed() const { return allocations.until_failure == -1; }
};
