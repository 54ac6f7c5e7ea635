"""What `bench start` runs: for each contender one short script, as a user would write it, started from nothing.

Each is run as a file, not as a module: importing minires must not count for the others. It reads its folder from the
command line, prints its first prediction as a JSON list, and ends.
"""
