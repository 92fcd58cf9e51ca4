"""Is stage 7 right: unit tests, the simulator, fuzzers, soak."""
