"""Is it fast, and who says so: the load generator, rounds, peers, tables and charts."""
