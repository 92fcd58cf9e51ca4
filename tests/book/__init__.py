"""Is the book true, and how is it made: excerpts, figures, glossary, style, and the site."""
