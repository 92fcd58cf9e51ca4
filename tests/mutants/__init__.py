"""What each line is for: mutants are made by taking it away, and somebody has to notice.

A mutant is a patch of a few lines. It stands in the mutants/ of its stage, or here in library/, and
has a head:

    Without: the loop around send()
    Row: 14
    Also: 10
    Now and then the end of a long answer is missing.

    --- a/01-blocking/server.cpp
    +++ b/01-blocking/server.cpp
    ...

Without     what is taken away; where it is missing, the file's name says what becomes of it
Row         rows of the matrix that notice: a probe fails there, or sees another lesson
Test        a unit test that notices, as Suite.Name; or sim, the simulator; or a script that starts
            the programs of stage 7, as tests.loop.test_http.Class.test_name
Also        rows that turn for the same reason, some of them only now and then
Flags       for the compiler: -fsanitize=address where memory is used that was given back, so that
            it is no matter of luck whether the test fails

and behind them, in free words, what a user would see. Row or Test, one must be there.

    patch       a patch with a head, and how it is applied to a copy
    mutant      what the head of a mutant says
    workshop    where mutants are compiled
    notice      who notices one
    __main__    all of them: `make break-N`, `make patches`
"""
