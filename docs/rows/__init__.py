"""Readers of the files that experiments have written: each gives rows of the table of results."""
