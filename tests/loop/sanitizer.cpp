// sanitizer.cpp: linked into every program that is built with SAN=, and into no other.
//
// A finding ends the program at once, whatever it is, so that nobody can overlook it. And a server
// that knows no other end than being killed can be asked whether it has lost memory: it looks for
// leaks upon SIGRTMAX, and ends with 0 if there are none. tests/harness/server.py sends it.

#include <csignal>
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#include <unistd.h>

extern "C" {
// The environment (ASAN_OPTIONS, TSAN_OPTIONS) can change these. Freed memory is kept for a while,
// to see who uses it; so much of it that a server's memory does not seem to grow for ever.
const char* __asan_default_options() { return "quarantine_size_mb=4"; }
const char* __tsan_default_options() { return "halt_on_error=1"; }
const char* __ubsan_default_options() { return "print_stacktrace=1"; }
}

namespace {

#ifdef __SANITIZE_THREAD__

// ThreadSanitizer has a thread of its own from the first pthread_create() on, which wakes up ten
// times a second. A test asks whether a server sleeps, so here it is made, and ended, before main.
[[gnu::constructor]] void end_background_thread() {
    pthread_t other;
    void* (*nothing)(void*) = [](void* none) { return none; };
    if (pthread_create(&other, nullptr, nothing, nullptr) != 0) return;
    pthread_join(other, nullptr);
    __sanitizer_sandbox_on_notify(nullptr);
}

#elif defined(__SANITIZE_ADDRESS__)

void look_for_leaks(int) { _exit(__lsan_do_recoverable_leak_check() == 0 ? 0 : 23); }

[[gnu::constructor]] void be_asked_for_leaks() { std::signal(SIGRTMAX, look_for_leaks); }

#endif

}  // namespace
