// The diagram at the head of connection.h: each edge is taken, and there is no other way.

#include "07-evloop/connection.h"
#include "loop_fixture.h"

namespace {

std::vector<Edge> taken;

bool is_in(const Edge& edge, const auto& some) {
    return std::ranges::find(some, edge) != std::end(some);
}

}  // namespace

class PhaseTest : public LoopTest {
protected:
    PhaseTest() {
        taken.clear();
        on_edge = [](Edge edge) { taken.push_back(edge); };
    }
    ~PhaseTest() override { on_edge = nullptr; }
    bool has_taken(Phase from, Phase to) { return is_in({from, to}, taken); }
};

TEST_F(PhaseTest, EachEdgeIsTakenAndNoOther) {
    using enum Phase;
    Options options = any_port();
    {
        Fd server = listen_on(options, SOCK_NONBLOCK);
        ASSERT_NE(loop().connect(options.address), nullptr);
        EXPECT_TRUE(turn_until([&] { return has_taken(connecting, open); }));
        Conn* conn = loop().connect(options.address);
        conn->write("x");
        conn->close();
        EXPECT_TRUE(turn_until([&] { return has_taken(connecting, closing); }));
    }
    ASSERT_NE(loop().connect(options.address), nullptr);  // nobody is there any more
    EXPECT_TRUE(turn_until([&] { return has_taken(connecting, over); }));

    accepted_client().close();
    EXPECT_TRUE(turn_until([&] { return has_taken(open, closing) && has_taken(closing, over); }));
    accepted_client();
    last_conn()->abort();
    EXPECT_TRUE(turn_until([&] { return has_taken(open, over); }));
    Client& client = accepted_client();
    last_conn()->close();
    EXPECT_TRUE(turn_until([&] { return has_taken(closing, lingering); }));
    client.close();
    EXPECT_TRUE(turn_until([&] { return has_taken(lingering, over) && has_taken(over, gone); }));

    for (const Edge& edge : edges)
        EXPECT_TRUE(is_in(edge, taken)) << int(edge.from) << " to " << int(edge.to);
    for (const Edge& edge : taken)
        EXPECT_TRUE(is_in(edge, edges)) << int(edge.from) << " to " << int(edge.to);
}

using PhaseDeathTest = PhaseTest;

TEST_F(PhaseDeathTest, NoOtherWayIsPossible) {
    constexpr int phases = int(Phase::gone) + 1;
    Shared shared(loop(), Limits{});
    for (int from = 0; from < phases; ++from)
        for (int to = 0; to < phases; ++to) {
            Edge edge{Phase(from), Phase(to)};
            if (is_in(edge, edges)) continue;
            Connection conn(shared, Fd{}, Address{}, edge.from);
            EXPECT_DEATH(conn.enter(edge.to), "edges") << from << " to " << to;
        }
}
