"""The command line: one module a verb, each with `add_arguments` and `run`. Heavy imports wait until a verb runs."""
