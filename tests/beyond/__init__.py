"""Beyond one process: restarts that lose nothing, several processes, a million clients."""
