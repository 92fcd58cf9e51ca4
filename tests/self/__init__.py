"""Do the tools work, and is what the prose shows still the code."""
