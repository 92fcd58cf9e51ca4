// What all stages share: descriptors, addresses, the command line, set-up, send_all().

#include "allocations.h"
#include "common/fd.h"
#include "common/net.h"
#include "fake_kernel.h"
#include "loop_fixture.h"

#include <algorithm>
#include <csignal>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
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
    check(true, "fine");
    EXPECT_EXIT(check(fail_with(ENOSPC) == 0, "stdout"), testing::ExitedWithCode(1),
                "^stdout: No space left on device\n$");
}

// The clock stands still, at a time that no test has seen.
static void a_new_hour() {
    static int hours = 0;
    kernel.clock_stopped = true;
    kernel.now = std::chrono::hours(++hours);
}

TEST(WarnTest, SaysTheSameReasonOnceAMinuteAndKeepsErrno) {
    KernelGuard guard;
    a_new_hour();
    for (int error : {EMFILE, ENFILE}) kind_of("a call", error).unsaid = 0;
    testing::internal::CaptureStderr();
    auto warn_of = [](int error) {
        errno = error;
        warn("a call");
        EXPECT_EQ(errno, error);
    };
    warn_of(EMFILE);
    warn_of(EMFILE);
    warn_of(ENFILE);
    warn_of(EMFILE);
    kernel.now += std::chrono::seconds(59);
    warn_of(ENFILE);
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              "a call: Too many open files\na call: Too many open files in system\n");

    testing::internal::CaptureStderr();
    kernel.now += std::chrono::seconds(1);
    warn_of(EMFILE);
    kernel.now += std::chrono::seconds(60);
    warn_of(EMFILE);
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              "a call: Too many open files (and 2 more like it)\na call: Too many open files\n");

    kernel.write = [](int, const void*, std::size_t) { return fail_with(EIO); };
    kernel.now += std::chrono::seconds(60);
    warn_of(EMFILE);
}

TEST(SayTest, TwentyOfAKindAreSaidInAMinuteAndTheRestIsCounted) {
    KernelGuard guard;
    a_new_hour();
    auto bad_client = [](int number) { say("client %d is bad", number); };
    testing::internal::CaptureStderr();
    for (int i = 0; i < 1379; ++i) bad_client(i);
    say("stopping");
    std::string said = testing::internal::GetCapturedStderr();
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 21);
    EXPECT_TRUE(said.ends_with("client 18 is bad\nclient 19 is bad\nstopping\n")) << said;

    testing::internal::CaptureStderr();
    kernel.now += std::chrono::seconds(60);
    bad_client(7);
    bad_client(8);
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              "client 7 is bad (and 1359 more like it)\nclient 8 is bad\n");
}

TEST(SayTest, AllocatesNothing) {
    testing::internal::CaptureStderr();
    long before = allocations.made;
    say("no memory for %s", "anything");
    EXPECT_EQ(allocations.made, before);
    testing::internal::GetCapturedStderr();
}

TEST(SayTest, LinesOfSeveralThreadsStayWhole) {
    KernelGuard guard;
    a_new_hour();
    testing::internal::CaptureStderr();
    {
        std::vector<std::jthread> threads;
        for (int i = 0; i < 8; ++i) threads.emplace_back([] { say("a line of %s", "a thread"); });
    }
    std::string said = testing::internal::GetCapturedStderr();
    std::string expected;
    for (int i = 0; i < 8; ++i) expected += "a line of a thread\n";
    EXPECT_EQ(said, expected);
}

TEST(SayTest, ALineThatIsTooLongIsCut) {
    testing::internal::CaptureStderr();
    say("%s", std::string(5000, 'x').c_str());
    EXPECT_EQ(testing::internal::GetCapturedStderr(), std::string(999, 'x') + "\n");
}

// In each of these, stderr is something that cannot be written, in a process of its own: it must
// neither be killed by a signal nor wait. An alarm is the failsafe.
namespace {

void with_stderr(Fd replaced, const std::function<void()>& act) {
    alarm(20);
    dup2(replaced.get(), STDERR_FILENO);
    act();
    _exit(0);
}

void say_two() {
    say("one");
    warn("two");
}

}  // namespace

TEST(SayTest, AReaderThatHasGoneIsNoSignal) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    close(ends[0]);
    EXPECT_EXIT(with_stderr(Fd{dup(ends[1])}, say_two), testing::ExitedWithCode(0), "");
    EXPECT_EXIT(with_stderr(Fd{dup(ends[1])},
                            [] {
                                say_two();
                                std::raise(SIGPIPE);  // it is not left blocked, either
                            }),
                testing::KilledBySignal(SIGPIPE), "");
    close(ends[1]);
}

TEST(SayTest, AReaderThatSleepsIsNotWaitedFor) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    EXPECT_EXIT(with_stderr(Fd{dup(ends[1])},
                            [] {
                                KernelGuard guard;
                                kernel.clock_stopped = true;
                                for (int i = 0; i < 100'000; ++i) {
                                    kernel.now += std::chrono::seconds(3);
                                    say("line %d", i);
                                }
                            }),
                testing::ExitedWithCode(0), "");
    close(ends[0]);
    close(ends[1]);
}

TEST(SayTest, ADiskThatIsFullIsNoEnd) {
    EXPECT_EXIT(with_stderr(Fd{open("/dev/full", O_WRONLY)}, say_two), testing::ExitedWithCode(0),
                "");
}

TEST(SayTest, AFileThatMayNotGrowIsNoSignal) {
    EXPECT_EXIT(with_stderr(Fd{memfd_create("log", MFD_CLOEXEC)},
                            [] {
                                rlimit limit{.rlim_cur = 6, .rlim_max = 6};
                                setrlimit(RLIMIT_FSIZE, &limit);
                                say_two();
                                struct stat file {};
                                fstat(STDERR_FILENO, &file);
                                if (file.st_size != 6) _exit(1);
                            }),
                testing::ExitedWithCode(0), "");
}

TEST(StreamsTest, NumbersThatWereClosedAreTakenBeforeTheFirstSocket) {
    auto first_socket = [](std::vector<int> closed) {
        for (int fd : closed) close(fd);
        keep_standard_numbers();
        Fd first{socket(AF_INET, SOCK_STREAM, 0)};
        bool fine = first.get() > STDERR_FILENO && is_open(0) && is_open(1) && is_open(2);
        _exit(fine ? 0 : 1);
    };
    for (const std::vector<int>& closed : {std::vector<int>{}, {0}, {1}, {2}, {0, 2}, {0, 1, 2}})
        EXPECT_EXIT(first_socket(closed), testing::ExitedWithCode(0), "") << closed.size();
}

TEST(StreamsTest, AWriteGoesOnAfterEintrAndWhenItIsShort) {
    KernelGuard guard;
    int calls = 0;
    std::string written;
    kernel.write = [&](int, const void* bytes, std::size_t) -> ssize_t {
        if (++calls % 2 == 1) return fail_with(EINTR);
        written += *static_cast<const char*>(bytes);
        return 1;
    };
    EXPECT_TRUE(write_all(STDERR_FILENO, "byte by byte"));
    EXPECT_EQ(calls, 24);
    EXPECT_EQ(written, "byte by byte");
}

TEST(StreamsTest, AnAnnouncementThatCannotBeWrittenEndsTheSetUp) {
    auto announce_on = [](int fd) {
        dup2(fd, STDOUT_FILENO);
        announce(any_port());
    };
    Fd full{open("/dev/full", O_WRONLY)};
    EXPECT_EXIT(announce_on(full.get()), testing::ExitedWithCode(1),
                "^stdout: No space left on device\n$");
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    close(ends[0]);
    EXPECT_EXIT(announce_on(ends[1]), testing::ExitedWithCode(1), "^stdout: Broken pipe\n$");
    close(ends[1]);
    auto announce_on_nothing = [] {
        close(STDOUT_FILENO);
        keep_standard_numbers();
        announce(any_port());
    };
    EXPECT_EXIT(announce_on_nothing(), testing::ExitedWithCode(1),
                "^stdout: Bad file descriptor\n$");
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
         {"localhost", "example.org", "", "127.0.0.1.1", "256.0.0.1", "::g", "1 ", "1.2.3", "127.1",
          "2130706433", "0x7f.0.0.1", "127.0.0.01", "::ffff:1.2.3"})
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

TEST(AddressTest, OfAnotherFamilyIsAQuestionMark) {
    // 110 bytes; an Address has room for 28. It begins with a 0, so it is no file (unix(7)).
    sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
    std::snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "%0106d",
                  static_cast<int>(getpid()));
    Fd listener{socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    ASSERT_EQ(listen(listener.get(), 1), 0);
    Fd client{socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    EXPECT_EQ(peer_name(client.get()), "?");
    EXPECT_EQ(to_string(local_address(listener.get())), "?");
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
        if (!is_local(host)) GTEST_SKIP() << "this machine has no " << host;
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

TEST(AcceptAgainTest, OnlyASignalAndTheErrorOfASingleConnectionAllowIt) {
    for (int error : {EINTR, ECONNABORTED, ENETDOWN, EPROTO, ENOPROTOOPT, EHOSTDOWN, ENONET,
                      EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH})
        EXPECT_TRUE(may_accept_again(error)) << error;
    for (int error : {EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, EINVAL, EBADF, ENOTSOCK, EPERM})
        EXPECT_FALSE(may_accept_again(error)) << error;
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
