"""minires in torch's place: code that says `import torch` runs, with no torch installed.

    import minires
    minires.as_torch()          # before anything imports torch
    import torch, torch.nn as nn

or, for a whole script, `minires run-torch train.py --epochs 3`.

| file           | what                                                                                           |
|----------------|------------------------------------------------------------------------------------------------|
| `replace`      | `as_torch`: puts the modules into `sys.modules`, and refuses those that are outside the subset |
| `contents`     | which names `torch`, `torch.nn`, ... have: one table                                           |
| `stand_in`     | a module object whose unknown names are errors that say what to use instead                    |
| `hints`        | what to use instead                                                                            |
| `tensor_types` | `torch.Tensor(2, 3)`, `torch.LongTensor`, `Variable`, `finfo`                                  |
| `machine`      | `torch.cuda`, `torch.backends`, threads: the answers of a machine without a GPU                |
| `no_gpu`       | `DataParallel`, `autocast`, `GradScaler` as torch has them without a GPU                       |
| `run_torch`    | running a script                                                                               |
"""

from minires.compat.replace import Replacement, TorchImportError, as_torch

__all__ = ["Replacement", "TorchImportError", "as_torch"]
