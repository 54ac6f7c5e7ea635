"""What `bench start` runs: for each contender one short script, as a user would write it, started from nothing.

Each is run as a file, not as a module: importing minires must not count for the others. It reads its folder from the
command line and prints one line, {"output": its first prediction, "import": seconds that its imports took}. Then it waits
until its input is closed: so that its peak of memory can be read before it is gone.
"""
