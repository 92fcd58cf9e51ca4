// abnf.h: does a text follow a grammar that is written as the RFCs write theirs (RFC 5234)?
//
// All the places are found at which a rule may end, so nothing depends on the order of alternatives
// or on how much a repetition takes, as it would in a parser that is written by hand.

#pragma once

#include <algorithm>
#include <bitset>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

class Grammar {
public:
    // A rule on each line, made of rules above it. All words have blanks around them, brackets too.
    explicit Grammar(const char* text) {
        std::istringstream lines(text);
        for (std::string line, name, equals, word; std::getline(lines, line);) {
            std::istringstream words(line);
            if (!(words >> name >> equals)) continue;
            words_.clear();
            while (words >> word) words_.push_back(word);
            next_ = words_.begin();
            rules_[name] = alternatives();
        }
    }

    bool matches(const std::string& rule, std::string_view text) const {
        return std::ranges::count(ends(rules_.at(rule), text, {0}), text.size()) != 0;
    }

private:
    struct Node {
        enum Kind { character, sequence, choice, repetition } kind;
        std::bitset<256> characters{};  // one of them, in a text that matches
        std::vector<Node> parts{};  // of the other kinds
        std::size_t least = 1, most = 1;  // times that a repetition has its part
    };

    using Places = std::vector<std::size_t>;  // in a text, each once

    // ---- reading a grammar ----

    Node alternatives() {
        Node choice{.kind = Node::choice};
        Node characters{.kind = Node::character};  // the alternatives that are a single one
        do {
            Node node = concatenation();
            if (node.kind == Node::character) characters.characters |= node.characters;
            else choice.parts.push_back(std::move(node));
        } while (take("/"));
        if (choice.parts.empty()) return characters;
        if (characters.characters.any()) choice.parts.push_back(characters);
        return choice.parts.size() == 1 ? choice.parts[0] : choice;
    }

    Node concatenation() {
        Node sequence{.kind = Node::sequence};
        while (next_ != words_.end() && *next_ != "/" && *next_ != ")" && *next_ != "]")
            sequence.parts.push_back(element(*next_++));
        return sequence.parts.size() == 1 ? sequence.parts[0] : sequence;
    }

    // "1*4HEXDIG": how often, and what.
    Node element(const std::string& word) {
        std::size_t name = word.find_first_not_of("*0123456789");
        if (name != 0) {
            std::size_t star = std::min(word.find('*'), name);
            Node repetition{.kind = Node::repetition};
            repetition.least = std::strtoul(word.c_str(), nullptr, 10);
            repetition.most = star == name ? repetition.least : SIZE_MAX;
            if (star + 1 < name) repetition.most = std::strtoul(&word[star + 1], nullptr, 10);
            repetition.parts.push_back(element(word.substr(name)));
            return repetition;
        }
        if (word == "(" || word == "[") {
            Node group = alternatives();
            ++next_;
            if (word == "(") return group;
            return {.kind = Node::repetition, .parts = {group}, .least = 0};
        }
        if (word[0] == '"') return text(word.substr(1, word.size() - 2));
        if (word[0] == '%') return range(word.substr(2));
        return rules_.at(word);
    }

    static Node text(const std::string& characters) {  // in any case
        Node sequence{.kind = Node::sequence};
        for (unsigned char c : characters) {
            Node& node = sequence.parts.emplace_back(Node{.kind = Node::character});
            node.characters.set(std::tolower(c)).set(std::toupper(c));
        }
        return sequence.parts.size() == 1 ? sequence.parts[0] : sequence;
    }

    static Node range(const std::string& hex) {
        Node node{.kind = Node::character};
        char* end = nullptr;
        unsigned long first = std::strtoul(hex.c_str(), &end, 16);
        unsigned long last = *end == '-' ? std::strtoul(end + 1, nullptr, 16) : first;
        for (unsigned long c = first; c <= last; ++c) node.characters.set(c);
        return node;
    }

    bool take(const char* word) {
        bool found = next_ != words_.end() && *next_ == word;
        if (found) ++next_;
        return found;
    }

    // ---- following it ----

    static Places ends(const Node& node, std::string_view text, const Places& begins) {
        if (node.kind == Node::repetition) return ends_of_repetition(node, text, begins);
        Places found;
        if (node.kind == Node::character) {
            for (std::size_t at : begins)
                if (at < text.size() && node.characters[static_cast<unsigned char>(text[at])])
                    found.push_back(at + 1);
        } else if (node.kind == Node::choice) {
            for (const Node& part : node.parts) {
                Places more = ends(part, text, begins);
                found.insert(found.end(), more.begin(), more.end());
            }
            std::ranges::sort(found);
            found.erase(std::unique(found.begin(), found.end()), found.end());
        } else {
            found = begins;
            for (const Node& part : node.parts) found = ends(part, text, found);
        }
        return found;
    }

    static Places ends_of_repetition(const Node& node, std::string_view text, Places reached) {
        std::vector<bool> seen(text.size() + 1);
        Places found;
        for (std::size_t times = 0; !reached.empty(); ++times) {
            if (times >= node.least) {
                std::erase_if(reached, [&](std::size_t at) { return seen[at]; });
                for (std::size_t at : reached) seen[at] = true;
                found.insert(found.end(), reached.begin(), reached.end());
            }
            if (times == node.most) break;
            reached = ends(node.parts[0], text, reached);
        }
        return found;
    }

    std::map<std::string, Node> rules_;
    std::vector<std::string> words_;  // of the rule that is being read
    std::vector<std::string>::const_iterator next_;
};
