"""Is it fast, and who says so? MEASURING.md says how to read a number, MEASURED.md has them.

    load         a server, and beside it the generator of load/
    scenarios    what is measured
    rounds       samples in turn, their medians and how far they lie apart
    tables       how every measurement is printed
    compare      the seven: `make compare`. extra has what only FULL=1 measures, report its tables,
                 chart its pictures
    peers        stage 7 beside other libraries: `make peers`
    nginx        its HTTP server beside nginx: `make http`
    threads      one loop beside several: `make threads`
    per_client   a thread for each client: `make per-client`
    measured     all of this, kept in MEASURED.md: `make measured`
"""
