"""A search over settings: many short runs, each with other values, and what they tell about which setting matters.

Read `space` (what may vary), `search` (one trial, and all of them), `summary` (what came out). Optuna proposes and judges; it is
an extra (`pip install minires[tune]`) and is loaded when a search begins.
"""

from minires.train.tune.search import PRUNERS, SAMPLERS, Search, open_study, run_search
from minires.train.tune.space import Axis, parse_axis
from minires.train.tune.summary import importances, write_summary

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "Axis",
    "Search",
    "importances",
    "open_study",
    "parse_axis",
    "run_search",
    "write_summary",
]
