// More sentences of evloop.h, as one reads them who has not seen the code behind it. Some are here
// because another library has had a bug of that kind.

#include "loop_fixture.h"

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <system_error>

class ManualTest : public LoopTest {};

// "without progress": a peer that takes its time is not one that has gone. The kernel asks for more
// only when a third of its buffer is free, and that takes longer here than any of the deadlines.
TEST_F(ManualTest, ASlowReaderOfALongAnswerIsNotTimedOut) {
    constexpr std::size_t size = 12 << 20;
    for (bool closing : {false, true}) {
        make_loop({.tick = 1000ms, .idle = 5000ms, .drain = 5000ms});
        hooks.read = [&](Conn& conn) {
            conn.consume(conn.input().size());
            conn.write(std::string(size, 'x'));
            if (closing) conn.close();
        };
        Client& client = accepted_client(256 << 10);
        receiving = false;
        client.send("go");
        EXPECT_TRUE(turn_until([&] { return hooks.reads > 0; }));
        for (std::size_t more = 0; !client.over() && client.bytes.size() < size;) {
            pass(1000ms);
            turn(2);  // one that looks who is late, and one that judges
            more = std::min(client.bytes.size() + 200'000, size);
            EXPECT_TRUE(turn_until([&] {
                client.receive(more - client.bytes.size());
                return client.over() || client.bytes.size() == more;
            }));
        }
        EXPECT_EQ(client.bytes.size(), size) << "closing: " << closing;
        hooks.reads = 0;
    }
}

// "Close when all that was written has been sent": where nothing was, there is nothing to wait for.
// (In asio, an unreachable peer could keep a socket that was closed in mid-connect.)
TEST_F(ManualTest, CloseBeforeItIsUpWaitsOnlyForWhatWasWritten) {
    loop().connect(address)->close();
    turn();
    EXPECT_EQ(hooks.errors, std::vector{0});
    Conn* conn = loop().connect(address);
    conn->write("sent when it is up");
    conn->close();
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    EXPECT_EQ(hooks.connected, 0);
}

// "once so much time has passed": also when that is more than a clock can count.
TEST_F(ManualTest, ADeadlineMayBeAsFarAwayAsOneCanSay) {
    accepted_client();
    pass(1000ms);
    last_conn()->deadline(std::chrono::milliseconds::max());
    pass(1000ms);
    turn(3);
    EXPECT_EQ(hooks.closed, 0);
}

// "Throws std::system_error if the kernel has no descriptor", and it says that.
TEST_F(ManualTest, WithoutDescriptorsTheConstructorSaysWhy) {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP()
        << "UBSan looks at what is thrown through a pipe, and there is no descriptor for it";
#endif
    kernel.clock_stopped = false;
    rlimit before;
    getrlimit(RLIMIT_NOFILE, &before);
    int next = Fd{eventfd(0, EFD_CLOEXEC)}.get();
    for (int left : {0, 1, 2}) {
        rlimit few{static_cast<rlim_t>(next + left), before.rlim_max};
        setrlimit(RLIMIT_NOFILE, &few);
        int error = 0;
        try {
            Loop another(hooks);
        } catch (const std::system_error& thrown) {
            error = thrown.code().value();
        }
        setrlimit(RLIMIT_NOFILE, &before);
        EXPECT_EQ(error, EMFILE) << left;
    }
}

// "whatever it does until then, and though it is held"
TEST_F(ManualTest, ADeadlineEndsAHeldConnection) {
    hooks.read = [](Conn& conn) {
        conn.consume(conn.input().size());
        conn.hold();
        conn.deadline(3000ms);
    };
    accepted_client().send("job");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    pass(2000ms);
    turn(3);
    EXPECT_EQ(hooks.closed, 0);
    pass(2000ms);
    turn(3);
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
}

// A Conn& is valid in on_close(), and says who it was: the kernel does not know any more.
TEST_F(ManualTest, ThePeerIsKnownAfterAReset) {
    Client& client = accepted_client();
    std::string before = last_conn()->peer(), after;
    hooks.close = [&](Conn& conn) { after = conn.peer(); };
    client.reset();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(after, before);
}

// "Those that are in their on_close() are not counted any more."
TEST_F(ManualTest, InTheLastOnCloseThereAreNoConnections) {
    std::size_t left = 7;
    hooks.close = [&](Conn&) { left = loop().connections(); };
    accepted_client().close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(left, 0u);
}

// "others wait in the accept queue; no connect() does"
TEST_F(ManualTest, ConnectIsNotRefusedBeyondTheCapOfConnections) {
    make_loop({.max_connections = 1});
    accepted_client();
    Options options = any_port();
    Fd elsewhere = listen_on(options, SOCK_NONBLOCK);
    ASSERT_NE(loop().connect(options.address), nullptr);
    EXPECT_TRUE(turn_until([&] { return hooks.connected == 1; }));
}

// "A task runs on the loop's thread", and one that is posted by a task in the next turn. (In muduo,
// two that ran each other did so for ever.)
TEST_F(ManualTest, ATaskThatPostsItselfRunsOnceATurn) {
    int runs = 0;
    std::function<void()> again = [&] {
        if (++runs < 1000) loop().post(again);
    };
    loop().post(again);
    for (int i = 1; i < 10; ++i) {
        turn();
        EXPECT_EQ(runs, i);
    }
}
