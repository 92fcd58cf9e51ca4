"""The commands of this course on machines unlike this one. See README.md.

    enter    makes this machine a poorer one, for one command
    run      the README's commands on all of these: `make machines`
    roots    the same on other releases of Debian, and with their compilers
"""
