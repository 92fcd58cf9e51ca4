"""The commands of this course on machines unlike this one. See README.md."""
