// What all stages share: descriptors, addresses, the command line, set-up, send_all().

#include "common/fd.h"
#include "common/net.h"
#include "fake_kernel.h"
#include "loop_fixture.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <thread>

namespace {

bool is_open(int fd) { return fcntl(fd, F_GETFD) != -1; }

Fd null_device() { return Fd{open("/dev/null", O_RDONLY | O_CLOEXEC)}; }

Options parse(std::vector<const char*> words, std::vector<NumberOption> more = {}) {
    words.insert(words.begin(), "program");
    words.push_back(nullptr);
    optind = 1;
    return parse_options(static_cast<int>(words.size()) - 1, const_cast<char**>(words.data()),
                         "stage", 9009, std::move(more));
}

struct Pair {
    Fd ours, theirs;
    Pair() {
        int ends[2];
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        ours = Fd{ends[0]};
        theirs = Fd{ends[1]};
    }
};

}  // namespace

TEST(FdTest, ClosesAtTheEndOfItsScope) {
    int number;
    {
        Fd fd = null_device();
        number = fd.get();
        EXPECT_TRUE(fd);
        EXPECT_TRUE(is_open(number));
    }
    EXPECT_FALSE(is_open(number));
}

TEST(FdTest, NoneIsFalseAndClosesNothing) {
    errno = 0;
    { Fd none; }
    { Fd none{-1}; }
    EXPECT_EQ(errno, 0);
    EXPECT_FALSE(Fd{});
    EXPECT_EQ(Fd{}.get(), -1);
}

TEST(FdTest, MovingHandsOver) {
    Fd from = null_device();
    int number = from.get();
    Fd to{std::move(from)};
    EXPECT_EQ(from.get(), -1);  // NOLINT
    EXPECT_EQ(to.get(), number);
    EXPECT_TRUE(is_open(number));
}

TEST(FdTest, AssignmentClosesTheOldOneOnly) {
    Fd a = null_device();
    Fd b = null_device();
    int old = a.get();
    int kept = b.get();
    a = std::move(b);
    EXPECT_FALSE(is_open(old));
    EXPECT_TRUE(is_open(kept));
    Fd& same = a;
    a = std::move(same);
    EXPECT_EQ(a.get(), kept);
    EXPECT_TRUE(is_open(kept));
}

TEST(FdTest, ReleaseGivesUpWithoutClosing) {
    Fd fd = null_device();
    int number = fd.release();
    EXPECT_FALSE(fd);
    EXPECT_TRUE(is_open(number));
    Fd again{number};
}

TEST(CheckTest, PassesResultsOnAndEndsTheProcessOnFailure) {
    EXPECT_EQ(check(7, "seven"), 7);
    EXPECT_EXIT(check(fail_with(EACCES), "bind x"), testing::ExitedWithCode(1),
                "^bind x: Permission denied\n$");
}

TEST(WarnTest, SaysTheSameReasonOnceAMinuteAndKeepsErrno) {
    KernelGuard guard;
    kernel.clock_stopped = true;
    kernel.now = std::chrono::hours(1);
    testing::internal::CaptureStderr();
    auto warn_of = [](int error) {
        errno = error;
        warn("accept");
        EXPECT_EQ(errno, error);
    };
    warn_of(EMFILE);
    warn_of(EMFILE);
    warn_of(ENFILE);
    kernel.now += std::chrono::seconds(59);
    warn_of(ENFILE);
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              "accept: Too many open files\naccept: Too many open files in system\n");

    testing::internal::CaptureStderr();
    kernel.now += std::chrono::seconds(1);
    warn_of(ENFILE);
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "accept: Too many open files in system\n");
}

TEST(AddressTest, IsWrittenAsItIsRead) {
    EXPECT_EQ(to_string(*parse_address("127.0.0.1", 9000)), "127.0.0.1:9000");
    EXPECT_EQ(to_string(*parse_address("::1", 80)), "[::1]:80");
    EXPECT_EQ(to_string(*parse_address("0.0.0.0", 65535)), "0.0.0.0:65535");
    EXPECT_EQ(parse_address("127.0.0.1", 0)->family(), AF_INET);
    EXPECT_EQ(parse_address("::", 0)->family(), AF_INET6);
}

TEST(AddressTest, NamesAndNonsenseAreNoAddress) {
    for (const char* host :
         {"localhost", "example.org", "", "127.0.0.1.1", "256.0.0.1", "::g", "1 "})
        EXPECT_FALSE(parse_address(host, 1)) << host;
}

TEST(AddressTest, OfASocketAndOfItsPeer) {
    Options options = any_port();
    Fd listener = listen_on(options);
    EXPECT_EQ(to_string(local_address(listener.get())), to_string(options.address));
    Client client(options.address);
    EXPECT_EQ(peer_name(client.fd()), to_string(options.address));
    EXPECT_EQ(peer_name(listener.get()), "?");
}

TEST(OptionsTest, DefaultsAreTheStagesPortOnLoopback) {
    Options options = parse({});
    EXPECT_STREQ(options.name, "stage");
    EXPECT_EQ(to_string(options.address), "127.0.0.1:9009");
}

TEST(OptionsTest, TakesPortHostAndAProgramsOwn) {
    EXPECT_EQ(to_string(parse({"--port", "0"}).address), "127.0.0.1:0");
    EXPECT_EQ(to_string(parse({"--port=65535"}).address), "127.0.0.1:65535");
    EXPECT_EQ(to_string(parse({"--host", "::1", "--port", "1"}).address), "[::1]:1");
    int threads = 1, idle = 5;
    parse({"--threads", "64"}, {{"idle", &idle, 0, 9, ""}, {"threads", &threads, 1, 64, ""}});
    EXPECT_EQ(threads, 64);
    EXPECT_EQ(idle, 5);
}

TEST(OptionsTest, BadUsageIsOneLineAndExit2) {
    auto bad_usage = testing::ExitedWithCode(2);
    for (const char* port : {"65536", "70000", "-1", "x", "80x", "", " 80", "99999999999999999999"})
        EXPECT_EXIT(parse({"--port", port}), bad_usage, "^stage: --port .*from 0 to 65535.*\n$")
            << port;
    EXPECT_EXIT(parse({"--host", "localhost"}), bad_usage,
                "^stage: --host localhost: not an IPv4 or IPv6 address.*\n$");
    EXPECT_EXIT(parse({"9000"}), bad_usage, "^stage: unexpected argument 9000.*\n$");
    EXPECT_EXIT(parse({"--nonsense"}), bad_usage, "^[^\n]*--nonsense[^\n]*\n$");
    EXPECT_EXIT(parse({"--port"}), bad_usage, "^[^\n]*--port[^\n]*\n$");
    int n = 0;
    EXPECT_EXIT(parse({"--n", "10"}, {{"n", &n, 1, 9, ""}}), bad_usage, "from 1 to 9");
}

TEST(OptionsTest, HelpGoesToStdoutAndExits0) {
    EXPECT_EXIT(
        {
            dup2(STDOUT_FILENO, STDERR_FILENO);
            testing::internal::CaptureStdout();
            std::atexit([] {
                std::string help = testing::internal::GetCapturedStdout();
                if (help.find("--port N") == std::string::npos ||
                    help.find("9009") == std::string::npos || help.find("--host") == help.npos)
                    _exit(3);
            });
            parse({"--help"});
        },
        testing::ExitedWithCode(0), "");
}

TEST(ListenTest, PortZeroBecomesARealOneOnBothFamilies) {
    for (const char* host : {"127.0.0.1", "::1"}) {
        Options options = any_port(host);
        Fd listener = listen_on(options);
        EXPECT_EQ(to_string(options.address).find(":0"), std::string::npos);
        Client client(options.address);
        EXPECT_FALSE(client.over()) << host;
    }
}

TEST(ListenTest, AcceptedSocketsInheritNoDelay) {
    Options options = any_port();
    Fd listener = listen_on(options);
    Client client(options.address);
    Fd accepted{accept(listener.get(), nullptr, nullptr)};
    int on = 0;
    socklen_t length = sizeof on;
    getsockopt(accepted.get(), IPPROTO_TCP, TCP_NODELAY, &on, &length);
    EXPECT_EQ(on, 1);
}

TEST(ListenTest, AnOccupiedPortIsSaidAndExits1) {
    Options options = any_port();
    Fd listener = listen_on(options);
    EXPECT_EXIT(listen_on(options), testing::ExitedWithCode(1),
                "^bind 127.0.0.1:[0-9]+: Address already in use\n$");
}

TEST(ListenTest, SharedPortIsSharedByThoseWhoAsk) {
    Options options = any_port();
    Fd one = listen_on(options, 0, true);
    Fd two = listen_on(options, SOCK_NONBLOCK, true);
    EXPECT_EQ(to_string(local_address(one.get())), to_string(local_address(two.get())));
    EXPECT_TRUE(fcntl(two.get(), F_GETFL) & O_NONBLOCK);
    EXPECT_TRUE(fcntl(two.get(), F_GETFD) & FD_CLOEXEC);
}

TEST(OutOfResourcesHelperTest, OutOfResourcesIsToldFromABrokenConnection) {
    for (int error : {EMFILE, ENFILE, ENOBUFS, ENOMEM}) EXPECT_TRUE(out_of_resources(error));
    for (int error : {ECONNABORTED, EPROTO, ENETDOWN, EPERM, EINTR, EAGAIN, EHOSTUNREACH})
        EXPECT_FALSE(out_of_resources(error));
}

TEST(SendAllTest, SendsEveryByteThroughASmallBuffer) {
    Pair pair;
    int small = 4096;
    setsockopt(pair.ours.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    std::string sent = pattern(4 << 20);
    std::string received;
    std::thread reader([&] {
        char room[10'000];
        for (ssize_t n; (n = real::recv(pair.theirs.get(), room, sizeof room, 0)) > 0;)
            received.append(room, n);
    });
    EXPECT_TRUE(send_all(pair.ours.get(), sent));
    pair.ours = Fd{};
    reader.join();
    EXPECT_EQ(received, sent);
}

TEST(SendAllTest, GoesOnAfterEintrAndShortWrites) {
    KernelGuard guard;
    Pair pair;
    int calls = 0;
    kernel.send = [&](int fd, const void* bytes, std::size_t, int flags) -> ssize_t {
        if (++calls % 2 == 1) return fail_with(EINTR);
        return real::send(fd, bytes, 1, flags);
    };
    EXPECT_TRUE(send_all(pair.ours.get(), "byte by byte"));
    EXPECT_EQ(calls, 24);
    char room[100];
    EXPECT_EQ(real::recv(pair.theirs.get(), room, sizeof room, 0), 12);
    EXPECT_EQ(std::string_view(room, 12), "byte by byte");
}

TEST(SendAllTest, APeerThatHasGoneIsFalseAndNoSignal) {
    Pair pair;
    pair.theirs = Fd{};
    EXPECT_FALSE(send_all(pair.ours.get(), "anyone?"));
    EXPECT_EQ(errno, EPIPE);
    EXPECT_TRUE(send_all(pair.ours.get(), ""));
}
