"""Do the tools work?

    run               all suites: `make test`
    lint              all that can be said without running a server: `make lint`
    test_*            a suite for each tool; scripts is how they run one
    wrong_server      errs as it is told
    holding_server    holds what it cannot send, and loses bytes as it is told
"""
