"""What is a process doing right now? All of it is seen from outside, whatever its language is.

    kernel       processes and sockets: /proc and sock_diag
    tracing      its calls, one by one: ptrace
    shim         its calls, counted and altered: a library to preload, which is shim.cpp
    runtime      whether Go, Node or another runtime is below it
    host         the machine around it
"""
