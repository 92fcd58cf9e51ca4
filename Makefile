# make help lists the commands.

CXXFLAGS ?= -O2 -g
CXXFLAGS += -std=c++20 -Wall -Wextra -Wpedantic -Werror
CPPFLAGS += -I. -MMD -MP
PYTHON ?= python3
B = build

stages = 01-blocking 02-select 03-poll-lt 04-epoll-lt 05-epoll-et 06-write-buffering 07-evloop

ifdef SAN
B = build/san-$(subst $(comma),-,$(SAN))
CXXFLAGS += -fsanitize=$(SAN) -fno-omit-frame-pointer
endif
comma := ,

.DEFAULT_GOAL := all
.PHONY: all
all: $(stages:%=$(B)/%)

$(B)/%: %/server.cpp | $(B)
	$(CXX) $(CPPFLAGS) $(CXXFLAGS) -MF $@.d $< -o $@

$(B):
	mkdir -p $@

-include $(wildcard $(B)/*.d)
