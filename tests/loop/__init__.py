"""Is stage 7 right?

    unit/            a test for each promise of the library, on real sockets
    sim/             the loop on a kernel in miniature
    fuzz/, fuzz      bytes that no client would send: `make fuzz`
    soak             random clients for as long as you like, on every stage: `make soak`
    test_sweeps      the k-th call fails, for every k
    test_*           what 07-evloop, 07-http and 07-client do as programs
    sanitizer.cpp    what a program says of its leaks when it is asked
"""
