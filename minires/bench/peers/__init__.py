"""What runs in a contender's process. Imported there and nowhere else, so each file imports its library at the top.

Each has `open_task(kind, variant, workload)`, which returns a task: `run()` is one repetition, `outcome()` what the last
one computed, `note` and `versions` what the report should say.
"""
