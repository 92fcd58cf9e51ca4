"""What a reader types: the commands of the Makefile that are about one stage or all seven.

    step       `make step-N`: is the stage as its chapter says, and what to do with it
    trace      `make trace-N`: its system calls
    check      `make check-N`: every probe, also put to a reader's server
    matrix     `make matrix`: every probe against every stage
    start      `make start-N`: a file for a server of one's own
    build      `make build-N`: from a broken server to a whole one
    solution   `make solution-N`: what the exercises ask for
    talk, masks, herd, idle, beside     what chapters and exercises let run beside a server
"""
