"""The same clients on all seven servers: the cover picture, and a page that steps through.

    story        who comes, what they want, and what has to come of it
    timeline     plays it in real time, for the picture that cover draws
    steps        plays it call by call, for the page that is made of page/
    record       does all of this: `make story`
    browser      Chromium, in which test_story looks at the page
"""
