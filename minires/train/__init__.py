"""Training: settings, the loop, checkpoints, run folders, curves.

    from minires.train import build_config, run_training
    result = run_training(build_config({"data": "digits"}), sys.stdout)

`loop.py` is the place to begin reading. `import minires.train` loads nothing; each name comes when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "TrainConfig": "config",
    "build_config": "config",
    "Evaluation": "evaluate",
    "load_checkpoint": "checkpoint",
    "load_model": "checkpoint",
    "LossNotFiniteError": "guard",
    "run_training": "session",
    "resume_training": "session",
    "TrainResult": "session",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
