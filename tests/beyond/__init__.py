"""What if one process is not enough?

    restart      servers are replaced while requests go on: `make restart`. clients has those that
                 ask, proxy the HAProxy in front
    processes    four processes on one port: `make processes`. handover is one that accepts for all
    million      as many idle clients as fit: `make million`
    servers      what these share: a server that is started, told to stop, looked at
"""
