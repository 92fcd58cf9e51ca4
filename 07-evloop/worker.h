// worker.h: a thread for what would hold up the loop, and a descriptor that tells when it is done.

#pragma once

#include "common/fd.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <sys/eventfd.h>
#include <thread>
#include <utility>
#include <vector>

constexpr std::size_t max_jobs = 32;  // that wait, the one in work among them

// A payload that begins "sleep 500" is work for 500 ms, at most 10 s. Any other is none: 0.
inline int job_length(std::string_view payload) {
    constexpr std::string_view prefix = "sleep ";
    int ms = 0;
    if (payload.starts_with(prefix))
        std::from_chars(payload.data() + prefix.size(), payload.data() + payload.size(), ms);
    return std::clamp(ms, 0, 10'000);
}

struct Job {
    std::uint64_t client;  // Conn::id() of the one that waits for it
    int ms;  // how long it takes
    std::string answer;
};

// Does one job after the other. The sleep stands for a query, a file, a computation.
class Worker {
public:
    ~Worker() {
        {
            std::lock_guard lock(mutex_);
            ending_ = true;
        }
        changed_.notify_one();
        if (thread_.joinable()) thread_.join();
    }

    int fd() const { return event_.get(); }  // readable when finished() has something

    // False if too many wait already. A queue without an end would be a promise that nobody keeps.
    bool submit(Job job) {
        {
            std::lock_guard lock(mutex_);
            if (jobs_.size() == max_jobs) return false;
            jobs_.push_back(std::move(job));
        }
        // Not before there is a job: in a process with a second thread, every call that names a
        // descriptor also has to hold on to the file, lest that thread close it meanwhile.
        if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
        changed_.notify_one();
        return true;
    }

    // Nobody waits any more for what `client` has asked for: others come sooner.
    void cancel(std::uint64_t client) {
        std::lock_guard lock(mutex_);
        std::erase_if(jobs_, [client](const Job& job) { return job.client == client; });
        changed_.notify_one();
    }

    std::vector<Job> finished() {
        eventfd_t count;  // read before the look: what comes later makes it ready again
        eventfd_read(event_.get(), &count);
        std::lock_guard lock(mutex_);
        return std::exchange(done_, {});
    }

private:
    // The job in work stays at the front of the queue until it is done, or cancelled.
    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
            if (ending_) return;
            std::uint64_t client = jobs_.front().client;
            auto cut_short = [&] {
                return ending_ || jobs_.empty() || jobs_.front().client != client;
            };
            std::chrono::milliseconds length(jobs_.front().ms);
            if (changed_.wait_for(lock, length, cut_short)) continue;
            done_.push_back(std::move(jobs_.front()));
            jobs_.pop_front();
            eventfd_write(event_.get(), 1);
        }
    }

    Fd event_{check(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd")};
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Job> jobs_;  // guarded by mutex_, as are the next two
    std::vector<Job> done_;
    bool ending_ = false;
    std::thread thread_;  // uses all of the above; runs from the first job on
};
