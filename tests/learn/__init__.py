"""What a reader types: each command of the Makefile that is about one stage or all seven."""
