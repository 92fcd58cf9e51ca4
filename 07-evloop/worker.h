// worker.h: a thread for what would hold up the loop, and a descriptor that tells when it is done.

#pragma once

#include "common/fd.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <sys/eventfd.h>
#include <thread>
#include <utility>
#include <vector>

struct Job {
    std::uint64_t id;  // of the connection that waits for it
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

    void submit(Job job) {
        {
            std::lock_guard lock(mutex_);
            jobs_.push_back(std::move(job));
        }
        // Not before there is a job: in a process with a second thread, every call that names a
        // descriptor also has to hold on to the file, lest that thread close it meanwhile.
        if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
        changed_.notify_one();
    }

    std::vector<Job> finished() {
        eventfd_t count;  // read before the look: what comes later makes it ready again
        eventfd_read(event_.get(), &count);
        std::lock_guard lock(mutex_);
        return std::exchange(done_, {});
    }

private:
    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
            if (ending_) return;
            Job job = std::move(jobs_.front());
            jobs_.pop_front();
            changed_.wait_for(lock, std::chrono::milliseconds(job.ms), [this] { return ending_; });
            done_.push_back(std::move(job));
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
