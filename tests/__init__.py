"""Makes `tests` this folder, also where a package of that name is installed. See README.md."""
