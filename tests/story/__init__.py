"""The same clients on all seven servers: the cover picture, and a page that steps through."""
