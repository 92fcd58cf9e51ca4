# `make help` lists the commands. N is a stage, 1 to 7.

CXXFLAGS ?= -O2 -g
CXXFLAGS += -std=c++20 -Wall -Wextra -Wpedantic -Werror
CPPFLAGS += -I. -MMD -MP
LDLIBS += -pthread
PYTHON ?= python3

# As many jobs as there are cores, also if nobody says -j, but no more than one for each GB of free
# memory (a container's limit is in a file of its own). Not around a server that ends by Ctrl-C: make
# would complain of jobs that it has lost.
memory := cat /proc/meminfo /sys/fs/cgroup/memory.max 2>/dev/null
jobs = $(shell $(memory) | awk -v jobs=$$(nproc) '/^MemAvailable/ { kb = $$2 } \
  /^[0-9]+$$/ && $$1 / 1024 < kb { kb = $$1 / 1024 } \
  END { most = int(kb / 1e6) + 1; print jobs < most ? jobs : most }')
ifeq ($(MAKELEVEL)$(filter run-%,$(MAKECMDGOALS)),0)
MAKEFLAGS += -j$(jobs)
endif

# SAN=address,undefined or SAN=thread: everything under a sanitizer, in a folder of its own.
comma := ,
B := build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))
ifneq ($(words $(B)),1)
$(error B=$(B): make cannot build in a folder whose path has a space)
endif
export BUILD := $(B)
ifdef SAN
CXXFLAGS += -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
endif

stages := 01-blocking 02-select 03-poll-lt 04-epoll-lt 05-epoll-et 06-write-buffering 07-evloop
stage = $(or $(filter 0$(1)-%,$(stages)),$(error there is no stage $(1): N is 1 to 7))
previous = $(or $(filter 0$(shell expr $(1) - 1)-%,$(stages)),$(error stage $(1) has none before it))

asked = $(filter-out undefined,$(origin $(1)))

# The tools are found from the current folder.
unexport PYTHONSAFEPATH

.DEFAULT_GOAL := all
.PHONY: all help test lint format prose matrix compare peers http per-client threads restart \
  processes million story measured fuzz soak patches machines site style clean

all: $(stages:%=$(B)/%) $(B)/07-client $(B)/07-http $(B)/load $(B)/shim.so  ## build everything

# ---- Programs ------------------------------------------------------------------------------------

link = $(CXX) $(CXXFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@
loop := $(B)/obj/07-evloop/evloop.o

$(stages:%=$(B)/%): $(B)/%: $(B)/obj/%/server.o
	$(link)

ifdef SAN
programs := $(stages) 07-client 07-http load unit sim
$(programs:%=$(B)/%): $(B)/obj/tests/loop/sanitizer.o
endif

$(B)/07-evloop: $(loop)

$(B)/07-client $(B)/07-http: $(B)/07-%: $(B)/obj/07-evloop/%.o $(loop)
	$(link)

$(B)/load: $(patsubst %.cpp,$(B)/obj/%.o,$(wildcard tests/bench/load/*.cpp)) $(loop)
	$(link)

$(B)/unit: LDLIBS += -lgtest -lgtest_main @tests/loop/unit/link.opts
$(B)/unit: $(patsubst %.cpp,$(B)/obj/%.o,$(wildcard tests/loop/unit/*.cpp)) $(loop)
	$(link)

# Tests are built in a third of the time without optimisation, and with GoogleTest's header compiled
# in advance. What they test is optimised.
gtest := $(B)/obj/gtest-$(notdir $(lastword $(CXX))).h
$(B)/obj/tests/loop/unit/%.o $(gtest).gch: private CXXFLAGS += -O0 -g1
$(B)/obj/tests/loop/unit/%.o: private CPPFLAGS += -include $(gtest)
$(patsubst %.cpp,$(B)/obj/%.o,$(wildcard tests/loop/unit/*.cpp)): $(gtest).gch

# The loop on a kernel in miniature: the linker puts it in the place of the real calls.
$(B)/sim: LDLIBS += @tests/loop/sim/link.opts
$(B)/sim: $(patsubst %.cpp,$(B)/obj/%.o,$(wildcard tests/loop/sim/*.cpp)) $(loop)
	$(link)

# A library to preload, so no sanitizer: it would have to be loaded before this one. It includes no
# file of ours, so there is nothing to note that would be wrong when its source has moved.
$(B)/shim.so: tests/outside/shim.cpp Makefile
	@mkdir -p $(@D)
	$(CXX) $(filter-out -fsanitize=% -fno-sanitize%,$(CXXFLAGS)) -fPIC -shared $< -o $@

$(gtest).gch: Makefile
	@mkdir -p $(@D)
	@echo '#include <gtest/gtest.h>' > $(gtest)
	$(CXX) $(CPPFLAGS) $(CXXFLAGS) -x c++-header $(gtest) -o $@

$(B)/obj/%.o: %.cpp Makefile
	@mkdir -p $(@D)
	$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)

# ---- One stage -----------------------------------------------------------------------------------

step-%:  ## step-N: build stage N, check it, and say what to do with it
	@$(MAKE) --no-print-directory -s $(B)/$(call stage,$*)
	@$(PYTHON) -m tests.learn.step $* --build $(B)

run-%:  ## run-N: the server of stage N in the foreground, on 9000+N or PORT=
	@$(MAKE) --no-print-directory -s $(B)/$(call stage,$*)
	@exec $(B)/$(call stage,$*) --port $(or $(PORT),900$*) $(ARGS)

# The words at the head of the stage, and then the code below them. Its name and port are left out, so
# that the diff begins with the idea.
words = sed -n '/^\/\/ Build/q; s,^// \{0\,1\},,p'
below = sed -n '/^\#include/,$$ { /^constexpr Stage/,/^$$/d; p }'

diff-%:  ## diff-N: what stage N changes in the one before; FULL=1: the whole file
	@mkdir -p $(B)/diff
	@$(foreach s,$(call previous,$*) $(call stage,$*),$(below) $s/server.cpp > $(B)/diff/$s.cpp;)
	@$(words) $(call stage,$*)/server.cpp
	@diff -U $(if $(FULL),10000,3) -F '^[A-Za-z].*[{(]' --color=auto \
	  --label $(call previous,$*) --label $(call stage,$*) \
	  $(B)/diff/$(call previous,$*).cpp $(B)/diff/$(call stage,$*).cpp; \
  status=$$?; test $$status -le 1 || exit $$status

check-%:  ## check-N: every probe of stage N; SERVER=./mine for your own, HINT=7
	@$(if $(call asked,SERVER),$(if $(SERVER),,$(error SERVER= is empty)))
	@$(if $(SERVER),$(if $(shell command -v $(CXX)),$(MAKE) --no-print-directory -s $(B)/shim.so),\
	  $(MAKE) --no-print-directory -s $(B)/$(call stage,$*) $(B)/shim.so)
	@$(PYTHON) -m tests.learn.check $(if $(call stage,$*),$*) --build $(B) \
	  $(if $(SERVER),--server "$$SERVER") $(if $(HINT),--hint $(HINT))

break-%: $(B)/shim.so  ## break-N: what each line of stage N is for: who notices when it is gone
	@$(PYTHON) -m tests.mutants $* --build $(B) $(if $(EXACT),--exact all)

# The eight bugs of 07-evloop/EIGHT-BUGS.md, too; `make patches` has all.
break-7: $(B)/shim.so
	@$(PYTHON) -m tests.mutants 7 eintr-ends-the-loop tick-only-on-time-out eof-not-closed \
	  closed-before-read accept-errors-are-all-no-more identity-is-the-number hang-up-spins \
	  one-message-per-event-stalls --build $(B) $(if $(EXACT),--exact all)

start-%:  ## start-N: a starter of stage N for you to write, in build/mine/N
	@$(PYTHON) -m tests.learn.start $* --build $(B)

build-%: $(B)/shim.so  ## build-N: from a broken server to stage N, a few lines at a time
	@$(PYTHON) -m tests.learn.build $* --build $(B)

solution-%:  ## solution-N: the exercises of stage N, of which X=2 shows you a solution
	@$(PYTHON) -m tests.learn.solution $* $(X)

trace-%:  ## trace-N: the system calls of stage N while three clients come and talk
	@$(MAKE) --no-print-directory -s $(B)/$(call stage,$*)
	@$(PYTHON) -m tests.learn.trace $* --build $(B)

# ---- All stages ----------------------------------------------------------------------------------

matrix: all $(B)/shim.so  ## every probe against every stage
	@$(PYTHON) -m tests.learn.matrix --build $(B) --write

compare: all $(B)/shim.so  ## throughput, latency, CPU and calls of all stages; FULL=1: more
	@$(PYTHON) -m tests.bench.compare --build $(B) $(if $(FULL),--full)

peers: all  ## stage 7 beside libevent, libuv, libev, Asio, and no library
	@$(PYTHON) -m tests.bench.peers --build $(B)

http: all  ## 07-http beside nginx, under wrk; SLICES=10
	@$(PYTHON) -m tests.bench.nginx --build $(B) $(if $(SLICES),--slices $(SLICES))

story: all  ## the same clients on all seven, recorded anew: cover and page
	@$(PYTHON) -m tests.story.record --build $(B) $(if $(DRAW),--draw)

per-client: all  ## a thread for each client beside stage 4: memory, switches, p99
	@$(PYTHON) -m tests.bench.per_client --build $(B)

threads: all  ## stage 7 with several loops: how connections spread; the gain
	@$(PYTHON) -m tests.bench.threads --build $(B)

restart: all  ## servers replaced while requests go on, alone or behind HAProxy
	@$(PYTHON) -m tests.beyond.restart --build $(B) $(ARGS)

processes: all  ## four processes on one port: balance, caches, losses in a crash
	@$(PYTHON) -m tests.beyond.processes --build $(B)

million: all  ## as many idle clients as fit, what each costs; CLIENTS=20000
	@$(PYTHON) -m tests.beyond.million --build $(B) $(if $(CLIENTS),--clients $(CLIENTS)) $(ARGS)

# For a quiet machine: it takes about half an hour.
keep := $(PYTHON) -m tests.bench.measured --keep
measured: all $(B)/shim.so  ## all measurements, into tests/bench (MEASURED.md and charts/)
	$(keep) compare make compare
	cp $(B)/idle-curve.svg tests/bench/charts/
	$(keep) full make compare FULL=1
	cp $(B)/throughput.svg $(B)/latency.svg $(B)/cost.svg tests/bench/charts/
	$(keep) peers make peers
	$(keep) per_client make per-client
	$(keep) threads make threads
	$(keep) http make http
	$(keep) restart make restart
	$(keep) processes make processes
	$(keep) million make million
	@$(PYTHON) -m tests.book.prose --write

fuzz:  ## coverage-guided fuzzing of both codecs and stage 7; MINUTES=10
	@$(PYTHON) -m tests.loop.fuzz --build $(B) --minutes $(or $(MINUTES),10)

soak: all  ## random clients from a seed against every stage; MINUTES=2
	@$(PYTHON) -m tests.loop.soak --build $(B) --minutes $(or $(MINUTES),2)

patches:  ## each promise of the library taken away; which test notices
	@$(PYTHON) -m tests.mutants library --build $(B)

test: all $(B)/unit $(B)/sim $(B)/shim.so  ## all tests; BUSY=20: beside as many busy processes
	@$(PYTHON) -m tests.self.run --build $(B) $(if $(BUSY),--busy $(BUSY))

machines:  ## the README's commands on odd machines; ONLY=no-ipv6,user
	@$(PYTHON) -m tests.machines.run $(if $(ONLY),--only $(ONLY))

lint:  ## formatting, static analysis, the prose against the code
	@$(PYTHON) -m tests.self.lint

format:  ## apply .clang-format
	@$(PYTHON) -m tests.self.lint --format

prose:  ## code, traces, figures and glossary of the chapters, made anew
	@$(PYTHON) -m tests.book.figures --write
	@$(PYTHON) -m tests.book.prose --write
	@$(PYTHON) -m tests.book.glossary --write

style:  ## how the chapters talk, in numbers, beside other books
	@$(PYTHON) -m tests.book.style

site:  ## the chapters as pages to read in a browser, in build/site
	@$(PYTHON) -m tests.book.site --build $(B)

clean:  ## remove what was built
	rm -rf build
	@find . -name __pycache__ -prune -exec rm -rf {} +

help:  ## this list
	@sed -nE 's/^([a-z%-]+):.*  ## (([a-z]+-N): )?(.*)/\1|\3|\4/p' Makefile | \
	  while IFS='|' read -r target name text; do printf '  make %-10s %s\n' "$${name:-$$target}" "$$text" || exit; done
