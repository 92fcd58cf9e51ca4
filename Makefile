# make help lists the commands.

CXXFLAGS ?= -O2 -g
CXXFLAGS += -std=c++20 -Wall -Wextra -Wpedantic -Werror
CPPFLAGS += -I. -MMD -MP
LDLIBS += -pthread
PYTHON ?= python3
B = build

stages = 01-blocking 02-select 03-poll-lt 04-epoll-lt 05-epoll-et 06-write-buffering 07-evloop

comma := ,
ifdef SAN
B = build/san-$(subst $(comma),-,$(SAN))
CXXFLAGS += -fsanitize=$(SAN) -fno-omit-frame-pointer
endif

.DEFAULT_GOAL := all
.PHONY: all
all: $(stages:%=$(B)/%) $(B)/07-client

# A stage is one file; 07 is one file and its library.
$(stages:%=$(B)/%): $(B)/%: $(B)/obj/%/server.o
	$(CXX) $(CXXFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(B)/07-evloop: $(B)/obj/07-evloop/evloop.o

$(B)/07-client: $(B)/obj/07-evloop/client.o $(B)/obj/07-evloop/evloop.o
	$(CXX) $(CXXFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(B)/obj/%.o: %.cpp Makefile
	@mkdir -p $(@D)
	$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
