// Sentences of evloop.h, each taken at its word.

#include "loop_fixture.h"

#include <fcntl.h>
#include <sys/eventfd.h>

class HeaderTest : public LoopTest {};

// "So every function here, but for run() and turn(), may be called from every hook"
TEST_F(HeaderTest, EveryFunctionMayBeCalledFromEveryHook) {
    Fd event{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    int calls = 0;
    auto everything = [&](Conn* conn) {
        ++calls;
        Options options = any_port();
        loop().listen(listen_on(options));
        EXPECT_TRUE(loop().add_fd(event.get(), EPOLLIN));
        loop().remove_fd(event.get());
        loop().post([] {});
        if (calls < 20) loop().connect(address);
        if (conn == nullptr) return;
        EXPECT_EQ(loop().conn(conn->id()), conn);
        EXPECT_EQ(&conn->loop(), &loop());
        EXPECT_NE(conn->peer(), "");
        conn->deadline(1h);
        conn->hold();
        conn->release();
        conn->write("x");
    };
    hooks.accept = [&](Conn& conn) { return everything(&conn), true; };
    hooks.connect = hooks.close = [&](Conn& conn) { everything(&conn); };
    hooks.read = [&](Conn& conn) {
        conn.consume(conn.input().size());
        everything(&conn);
    };
    hooks.tick = [&] { everything(nullptr); };
    for (int i = 0; i < 5; ++i) add_client().send("bytes");
    pass(1000ms);
    EXPECT_TRUE(turn_until([&] { return hooks.ticks > 0 && hooks.reads > 5; }));
    for (auto& client : clients) client->close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed >= 5; }));
    hooks.accept = {};
    hooks.connect = hooks.read = hooks.close = {};
    hooks.tick = {};
}

// "Valid until consume() or until the hook returns."
TEST_F(HeaderTest, InputStaysWhereItIsWhileOneWrites) {
    std::string sent = pattern(50'000);
    hooks.read = [&](Conn& conn) {
        std::string_view input = conn.input();
        if (input.size() < sent.size()) return;
        for (int i = 0; i < 100; ++i) conn.write(sent);
        EXPECT_EQ(conn.input().data(), input.data());
        EXPECT_TRUE(input == sent);
        conn.consume(input.size());
    };
    Client& client = accepted_client();
    client.send(sent);
    EXPECT_TRUE(turn_until([&] { return client.bytes.size() == 100 * sent.size(); }));
}

// "What the kernel does not take is kept and sent later, in order."
TEST_F(HeaderTest, SmallAndLargeWritesKeepTheirOrder) {
    std::string expected;
    hooks.read = [&](Conn& conn) {
        conn.consume(conn.input().size());
        for (int i = 0; i < 200; ++i) {
            std::string piece(i % 3 == 0 ? 40'000 : 7, static_cast<char>('a' + i % 26));
            expected += piece;
            conn.write(piece);
        }
        conn.write("");
    };
    Client& client = accepted_client(4096);
    client.send("go");
    EXPECT_TRUE(
        turn_until([&] { return !expected.empty() && client.bytes.size() >= expected.size(); }));
    EXPECT_TRUE(client.bytes == expected);
}

// "Ignored once close() was called."
TEST_F(HeaderTest, WhatIsWrittenBehindCloseIsNotSent) {
    hooks.read = [](Conn& conn) {
        conn.write("before");
        conn.close();
        conn.write(std::string(100'000, 'x'));
        EXPECT_EQ(conn.input(), "");
    };
    Client& client = accepted_client();
    client.send("x");
    EXPECT_TRUE(turn_until([&] { return client.ended(); }));
    EXPECT_EQ(client.bytes, "before");
}

// "the end of its input" does not close a held connection; release() and it is closed.
TEST_F(HeaderTest, AHeldConnectionAtItsEndClosesWithRelease) {
    hooks.read = [](Conn& conn) {
        conn.consume(conn.input().size());
        conn.hold();
        conn.hold();
    };
    Client& client = accepted_client();
    client.send("x");
    client.half_close();
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    EXPECT_TRUE(rests());
    last_conn()->release();
    EXPECT_TRUE(turn_until([&] { return client.ended() && hooks.closed == 1; }));
}

// "Called again, it counts anew."
TEST_F(HeaderTest, ADeadlineCountsAnewFromTheLastCall) {
    accepted_client();
    std::uint64_t id = last_conn()->id();
    for (int i = 0; i < 10; ++i) {
        loop().conn(id)->deadline(3000ms);
        pass(2000ms);
        turn(3);
        ASSERT_NE(loop().conn(id), nullptr);
    }
    pass(2000ms);
    turn(3);
    EXPECT_EQ(loop().conn(id), nullptr);
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
}

// "unique in its loop; descriptors are used again"
TEST_F(HeaderTest, IdsAreUniqueThoughNumbersAreNot) {
    std::set<std::uint64_t> ids;
    std::set<int> numbers;
    hooks.accept = [&](Conn& conn) {
        numbers.insert(conn.fd());
        return ids.insert(conn.id()).second;
    };
    for (int i = 0; i < 100; ++i) {
        accepted_client();
        clients.clear();
        EXPECT_TRUE(turn_until([&] { return hooks.closed == i + 1; }));
    }
    EXPECT_EQ(ids.size(), 100u);
    EXPECT_LE(numbers.size(), 3u);
}

// "False, with errno: EPERM for a regular file, EBADF, EEXIST for a descriptor of the loop's own."
TEST_F(HeaderTest, AddFdSaysWhyNot) {
    Fd file{open("/proc/self/exe", O_RDONLY | O_CLOEXEC)};
    EXPECT_FALSE(loop().add_fd(file.get(), EPOLLIN));
    EXPECT_EQ(errno, EPERM);
    EXPECT_FALSE(loop().add_fd(-1, EPOLLIN));
    EXPECT_EQ(errno, EBADF);
    accepted_client();
    EXPECT_FALSE(loop().add_fd(last_conn()->fd(), EPOLLIN));
    EXPECT_EQ(errno, EEXIST);
    loop().remove_fd(last_conn()->fd());
    loop().remove_fd(-1);
    loop().remove_fd(1 << 30);
    clients[0]->send("untouched");
    EXPECT_TRUE(turn_until([&] { return clients[0]->bytes == "untouched"; }));
}

// "A task runs on the loop's thread, in the order of the calls"
TEST_F(HeaderTest, TasksRunInTheOrderOfTheCalls) {
    std::string order;
    for (char c = 'a'; c <= 'z'; ++c) loop().post([&order, c] { order += c; });
    EXPECT_EQ(order, "");
    EXPECT_TRUE(turn_until([&] { return order.size() == 26; }));
    EXPECT_EQ(order, "abcdefghijklmnopqrstuvwxyz");
}

// "turn() is one turn; false when all is done." "stopping() ... on_stop() was called"
TEST_F(HeaderTest, TurnIsFalseWhenAllIsDoneAndNotBefore) {
    hooks.read = [](Conn& conn) {
        conn.consume(conn.input().size());
        conn.hold();
    };
    accepted_client().send("x");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    EXPECT_FALSE(loop().stopping());
    loop().stop();
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(loop().turn());
    EXPECT_TRUE(loop().stopping());
    EXPECT_EQ(hooks.stops, 1);
    last_conn()->abort();
    EXPECT_FALSE(loop().turn());
    EXPECT_EQ(hooks.errors, std::vector{ECONNABORTED});
}
