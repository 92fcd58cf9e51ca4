"""How to look into a process from outside: /proc, sock_diag, ptrace, and a library to preload."""
