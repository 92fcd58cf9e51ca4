"""How every measurement is printed: a title, the names of the columns, a line for each row."""


def table(title, first, columns, rows):
    """A table in text.

    first: name and width of the column at the left; columns: the same of the others, whose cells
    stand at the right of them. A row is a name, its cells, and what is to be said behind them.
    """
    def line(name, cells, behind=""):
        texts = (f"{cell:>{width}}" for cell, (_, width) in zip(cells, columns))
        return (f"{name:{first[1]}}" + "".join(texts) + behind).rstrip()

    return "\n".join([title, line(first[0], [name for name, _ in columns]),
                      *(line(*row) for row in rows)])
