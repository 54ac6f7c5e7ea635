"""The command line: one verb a file, each a thin layer over a room of the library.

A verb's module has `add_parser(verbs)`, which declares its arguments, and `run(args) -> int`, which does the work and
returns the exit code. Heavy imports stand inside `run`: `minires --help` must not cost a second.
"""
