// What a Host field and the target of a request may be.

#include "07-evloop/uri.h"

#include <gtest/gtest.h>
#include <string>

TEST(UriTest, Hosts) {
    for (const char* host : {"",
                             "a",
                             "A-1.example",
                             "127.0.0.1",
                             "300.1.1.1",
                             "a:80",
                             "a:",
                             ":80",
                             "a%41",
                             "a_b~c!$&'()*+,;=",
                             "[::]",
                             "[::1]",
                             "[::1]:80",
                             "[::1]:",
                             "[1:2:3:4:5:6:7:8]",
                             "[1::8]",
                             "[::ffff:127.0.0.1]",
                             "[fe80::A]",
                             "[v1.a:b]",
                             "[VfF.!]"})
        EXPECT_TRUE(parse_authority(host)) << host;
}

TEST(UriTest, NoHosts) {
    for (const char* host : {"a:b",
                             "a:80x",
                             "a:8:0",
                             "a:-1",
                             "a b",
                             "a|b",
                             "a/b",
                             "a?b",
                             "a#b",
                             "u@a",
                             "a\\b",
                             "a\"b",
                             "a<b",
                             "a^b",
                             "a`b",
                             "a{b",
                             "a\x7f",
                             "caf\xc3\xa9",
                             "a%",
                             "a%4",
                             "a%4g",
                             "a[b",
                             "a]",
                             "::1",
                             "[",
                             "[]",
                             "[::1",
                             "[::1]a",
                             "[::1]80",
                             "[::1]]",
                             "[[::1]]",
                             "[:1]",
                             "[1:2]",
                             "[1:2:3:4:5:6:7:8:9]",
                             "[1::2::3]",
                             "[12345::]",
                             "[::g]",
                             "[::1%25lo]",
                             "[::127.0.0.256]",
                             "[127.0.0.1]",
                             "[a]",
                             "[v.a]",
                             "[v1.]",
                             "[v1a]",
                             "[vg.a]",
                             "[v1.%41]"})
        EXPECT_FALSE(parse_authority(host)) << host;
    EXPECT_FALSE(parse_authority(std::string_view("[::1\0]", 6)));
    EXPECT_FALSE(parse_authority(std::string_view("a\0b", 3)));
}

TEST(UriTest, PartsOfAHost) {
    EXPECT_EQ(parse_authority("[::1]:80")->host, "[::1]");
    EXPECT_EQ(parse_authority("[::1]:80")->port, "80");
    EXPECT_EQ(parse_authority("a:")->port, "");
    EXPECT_FALSE(parse_authority("a")->port);
}

TEST(UriTest, Targets) {
    EXPECT_EQ(path_of("/a"), "/a");
    EXPECT_EQ(path_of("/a?b/c?d"), "/a");
    EXPECT_EQ(path_of("/?b"), "/");
    EXPECT_EQ(path_of("//:@/%2f"), "//:@/%2f");
    EXPECT_EQ(path_of("http://h:1/a/b?c"), "/a/b");
    EXPECT_EQ(path_of("http://[::1]:1/a"), "/a");
    EXPECT_EQ(path_of("HTTP://h"), "/");
    EXPECT_EQ(path_of("http://h?b"), "/");
}

TEST(UriTest, NoTargets) {
    for (const char* target : {"",
                               "a",
                               "*",
                               "a:1",
                               "?a",
                               "ftp://h/a",
                               "http:/a",
                               "http:///a",
                               "http://",
                               "http://?a",
                               "http://:80/a",
                               "http://h:x/a",
                               "http://u@h/a",
                               "http://[::1/a",
                               "http://h#a",
                               "/a b",
                               "/a|b",
                               "/[a]",
                               "/a\"b",
                               "/a#b",
                               "/a?b#c",
                               "/a?b|c",
                               "/a\\b",
                               "/a^b",
                               "/a`b",
                               "/a{b}",
                               "/<a>",
                               "/%",
                               "/%4",
                               "/%4g",
                               "/a?%zz",
                               "/\x7f",
                               "/\x01",
                               "/caf\xc3\xa9"})
        EXPECT_EQ(path_of(target), "") << target;
    EXPECT_EQ(path_of(std::string_view("/a\0", 3)), "");
}

TEST(UriTest, EscapesThatAreNotNeeded) {
    EXPECT_EQ(plain_path("/%62ytes/%31"), "/bytes/1");
    EXPECT_EQ(plain_path("/%7E%7e%2D%2e%5F"), "/~~-._");
    EXPECT_EQ(plain_path("/a%2Fb%25%3f%20%00%E9"), "/a%2Fb%25%3f%20%00%E9") << "these mean more";
    EXPECT_EQ(plain_path("/%2562"), "/%2562") << "once, and not again";
}
