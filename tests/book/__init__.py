"""Is the book true, and how is it made?

    markdown     the pages in their order, and what of them is prose
    prose        excerpts, diffs, tables and outputs are filled in: `make prose`
    figures      are drawn, by the shapes in drawing and with the numbers in recorded
    glossary     each term in the sentence that defines it
    style        how the chapters talk, in numbers: `make style`
    commands     types what the pages show. blocks reads it, terminal is where it is typed, lookup
                 finds what is only named
    variants     what chapter 7 says of other servers, counted; marks: of one mark and of two
    site         the chapters for a browser: `make site`
"""
