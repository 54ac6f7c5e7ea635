"""`minires.as_torch()`: what it puts where, how it is undone, and what it refuses."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

from minires.compat import contents
from minires.compat.contents import table
from tests.compat.running import python, without_torch

NAMES_THAT_MUST_BE_THERE = """
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.nn.init as init
import torch.optim as optim
import torch.optim.lr_scheduler as lr_scheduler
import torch.utils.data as data
import torch.backends.cudnn as cudnn
import torch.nn.parallel
import torch.cuda.amp
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, cuda, nn, optim
from torch.autograd import Function, Variable
from torch.nn import Conv2d, Parameter, functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.utils import _pair
from torch.nn.parameter import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, lr_scheduler
from torch.optim.lr_scheduler import StepLR, _LRScheduler
from torch.optim.optimizer import Optimizer
from torch.utils import model_zoo
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.data.sampler import SubsetRandomSampler
"""


def test_as_torch_gives_the_usual_imports_without_torch() -> None:
    code = (
        "import minires\nminires.as_torch()\n"
        + NAMES_THAT_MUST_BE_THERE
        + """
assert torch.nn is nn and torch.nn.functional is F and torch.utils.data is data
assert nn.Module is minires.nn.Module and _BatchNorm in nn.BatchNorm2d.__mro__ and _pair(3) == (3, 3)
assert isinstance(torch.randn(2), Tensor) and Variable(torch.ones(2)).requires_grad is False
assert not cuda.is_available() and not dist.is_available() and cuda.device_count() == 0
assert F.relu(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]
cudnn.benchmark = cudnn.deterministic = True
torch.backends.cuda.matmul.allow_tf32 = True
torch.manual_seed(3)
torch.cuda.manual_seed_all(3)
assert torch.version.cuda is None and tuple(int(v) for v in torch.__version__.split("+")[0].split(".")) > (1, 8)
names = {}
exec("from torch.nn import *", names)
assert "Conv2d" in names and "functional" not in names
print("all there")
"""
    )
    assert without_torch(code) == "all there\n"


def test_as_torch_twice_is_once_and_the_first_undoes_it() -> None:
    code = """
import sys, minires
before = set(sys.modules)
first = minires.as_torch()
import torch
finders = len(sys.meta_path)
second = minires.as_torch()
assert second.torch is first.torch is torch and len(sys.meta_path) == finders
second.restore()  # it took nothing, so it gives nothing back
assert sys.modules["torch"] is torch
with minires.as_torch() as inner:
    assert inner is torch
assert sys.modules["torch"] is torch
first.restore()
first.restore()
assert not [n for n in sys.modules if n.split(".")[0] == "torch"]
try:
    import torch
except ModuleNotFoundError as error:
    print(error)
with minires.as_torch():
    import torch.nn
assert "torch" not in sys.modules and "torch.nn" not in sys.modules
"""
    assert without_torch(code).startswith("No module named 'torch'")


def test_as_torch_restores_a_forbidden_import() -> None:
    """`sys.modules["torch"] = None`, which forbids the import, is no torch: it is put back afterwards."""
    code = """
import sys, minires
sys.modules["torch"] = None
with minires.as_torch():
    import torch
    assert torch.ones(1).item() == 1
assert sys.modules["torch"] is None
print("restored")
"""
    assert without_torch(code) == "restored\n"


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs an installed PyTorch to be hidden")
def test_as_torch_hides_an_installed_torch_and_refuses_an_imported_one() -> None:
    code = """
import sys, minires
with minires.as_torch():
    import torch
    assert "minires" in torch.__version__
    try:
        import torch.fft
    except ImportError as error:
        assert isinstance(error, minires.MiniresError)
import torch
assert "minires" not in torch.__version__ and torch.fft
try:
    minires.as_torch()
except ImportError as error:
    print(error)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "as_torch: torch is imported already, and half of the program would keep it; call minires.as_torch() before anything "
        "imports torch, or start the script with `minires run-torch FILE`\n"
    )


def test_as_torch_refuses_a_library_built_on_torch_that_is_imported() -> None:
    code = """
import sys, types, minires
sys.modules["torchvision"] = types.ModuleType("torchvision")
try:
    minires.as_torch()
except ImportError as error:
    print(error)
assert "torch" not in sys.modules
"""
    assert without_torch(code).startswith("as_torch: torchvision is imported already")


# What a script asks for, the class of what it gets, and what the message must say.
REFUSED = [
    ("torch.compile(None)", "UnsupportedError", ["torch.compile", "leave it out"]),
    ("from torch import compile", "TorchImportError", ["torch.compile", "leave it out"]),
    ("torch.jit.script", "UnsupportedError", ["torch.jit.script", "leave it out"]),
    ("torch.einsum", "UnsupportedError", ["torch.einsum", "matmul"]),
    ("torch.fft.rfft2", "UnsupportedError", ["torch.fft", "numpy.fft"]),
    ("import torch.fft", "TorchImportError", ["torch.fft", "numpy.fft"]),
    ("import torch.onnx", "TorchImportError", ["torch.onnx", "torch.save"]),
    ("from torch.utils.tensorboard import SummaryWriter", "TorchImportError", ["tensorboardX"]),
    ("torch.distributed.init_process_group()", "UnsupportedError", ["init_process_group", "one process"]),
    ("torch.nn.parallel.DistributedDataParallel", "UnsupportedError", ["one process"]),
    ("from torch.nn import LSTM", "TorchImportError", ["torch.nn.LSTM", "nn.Linear"]),
    ("nn.TransformerEncoder", "UnsupportedError", ["torch.nn.TransformerEncoder"]),
    ("nn.MultiheadAttention(8, 2)", "UnsupportedError", ["torch.nn.MultiheadAttention", "softmax"]),
    ("torch.optim.RMSprop", "UnsupportedError", ["torch.optim.RMSprop", "optim.AdamW"]),
    ("torch.optim.lr_scheduler.CyclicLR", "UnsupportedError", ["CyclicLR", "OneCycleLR"]),
    ("import torchvision", "TorchImportError", ["torchvision", "minires.data.load", "minires.models"]),
    ("from torchvision import transforms", "TorchImportError", ["torchvision", "minires.data.augment"]),
    ("import torchvision.models as models", "TorchImportError", ["torchvision", "minires.models"]),
    ("nn.Conv2dd", "UnsupportedError", ["torch.nn.Conv2dd", "did you mean torch.nn.Conv2d?"]),
    ("torch.something_new", "UnsupportedError", ["torch.something_new", "dir(torch)"]),
    ("torch.backends.cudnn.no_such_switch = True", "UnsupportedError", ["torch.backends.cudnn.no_such_switch"]),
    ("torch.bfloat16", "UnsupportedError", ["torch.bfloat16", "torch.float32"]),
    ("torch.cuda.Stream()", "UnsupportedError", ["torch.cuda.Stream", "run on the CPU"]),
    ("torch.cuda.synchronize()", "DeviceError", ["torch.cuda.is_available()"]),
    ("torch.ones(2).cuda()", "DeviceError", ["use 'cpu'"]),
    ("nn.DataParallel(nn.ReLU(), device_ids=[0, 1])", "DeviceError", ["device_ids = [0, 1]"]),
    ("torch.autocast('cpu')", "UnsupportedError", ["torch.autocast", "enabled=False"]),
    ("torch.amp.GradScaler('cpu')", "UnsupportedError", ["GradScaler", "enabled=False"]),
    ("torch.amp.GradScaler(enabled=False).load_state_dict({'scale': 2.0})", "UnsupportedError", ["GradScaler"]),
    ("torch.autograd.Variable(torch.ones(1), volatile=True)", "UnsupportedError", ["torch.no_grad()"]),
    ("torch.autograd.Variable(1)", "ArgumentError", ["Variable: data", "int"]),
    ("class Mine(torch.Tensor): pass", "UnsupportedError", ["class Mine", "subclasses"]),
    ("torch.Tensor(2.5)", "ArgumentError", ["Tensor", "torch.tensor(value)"]),
    ("torch.set_num_threads(0)", "ArgumentError", ["set_num_threads", "positive", "0"]),
    ("torch.set_num_interop_threads(True)", "ArgumentError", ["set_num_interop_threads", "True"]),
    ("torch.set_float32_matmul_precision('low')", "ArgumentError", ["'highest', 'high' or 'medium'", "'low'"]),
    ("torch.set_default_tensor_type('torch.cuda.FloatTensor')", "UnsupportedError", ["torch.set_default_dtype"]),
    ("torch.set_default_device('cuda')", "DeviceError", ["use 'cpu'"]),
    ("torch.finfo(torch.int64)", "DTypeError", ["finfo", "torch.iinfo"]),
    ("torch.iinfo(torch.float32)", "DTypeError", ["iinfo", "torch.finfo"]),
    ("torch.zeros(2, layuot=1)", "TypeError", ["layuot"]),
    ("torch.hub.load_state_dict_from_url('http://x')", "UnsupportedError", ["downloads no weights", "http://x"]),
    ("torch.utils.checkpoint.checkpoint(nn.ReLU(), torch.ones(1), debug=True)", "UnsupportedError", ["debug = True"]),
    (
        "torch.utils.checkpoint.checkpoint_sequential([nn.ReLU()], 2, torch.ones(1))",
        "ArgumentError",
        ["from 1 to 1", "2"],
    ),
]


def test_what_is_outside_says_so_and_what_to_use_instead() -> None:
    """One process for all: each line of REFUSED raises that class, and no other, with those words."""
    code = f"""
import minires
minires.as_torch()
import torch
from torch import nn
for code, kind, words in {REFUSED!r}:
    try:
        exec(code)
    except Exception as error:
        text = str(error)
        if type(error).__name__ != kind or not all(word in text for word in words):
            print(f"{{code}}: {{type(error).__name__}}: {{text}}")
        if kind != "TypeError":
            assert isinstance(error, minires.MiniresError)
    else:
        print(f"{{code}}: nothing was raised")
assert not hasattr(torch, "compile") and getattr(torch, "compile", 3) == 3
try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    SummaryWriter = None
assert SummaryWriter is None
"""
    assert without_torch(code) == ""


def test_amp_without_a_gpu_warns_and_changes_nothing() -> None:
    code = """
import warnings, minires
minires.as_torch()
import torch
weight = torch.ones(2, requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=0.5)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    scaler = torch.cuda.amp.GradScaler()
    with torch.cuda.amp.autocast():
        loss = (weight * 3).sum()
    torch.autocast("cuda")(lambda: None)()
print(len(caught), *(str(w.message).split(":")[0] for w in caught), caught[0].filename)
scaler.scale(loss).backward()
scaler.unscale_(optimizer)
scaler.step(optimizer)
scaler.update()
print(weight.tolist(), loss.dtype, scaler.get_scale(), scaler.is_enabled(), scaler.state_dict())
"""
    first, second = without_torch(code).splitlines()
    assert first.startswith("3 GradScaler autocast autocast")
    assert second == "[-0.5, -0.5] minires.float32 1.0 False {}"


def test_tensor_types_stand_for_the_class() -> None:
    code = """
import numpy as np, minires
minires.as_torch()
import torch
x = torch.Tensor(np.array([[1, 2], [3, 4]]))
assert x.dtype is torch.float32 and x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
source = torch.ones(2)
assert torch.Tensor(source) is not source and torch.Tensor(source.size()).tolist() == [0.0, 0.0]
assert torch.Tensor().shape == (0,) and torch.Tensor(2, 3).shape == (2, 3)
assert torch.Tensor != torch.FloatTensor and torch.Tensor == type(x) and type(x) == torch.Tensor
assert {torch.Tensor: 1}[type(x)] == 1
assert issubclass(torch.nn.Parameter, torch.Tensor) and not issubclass(int, torch.Tensor)
assert isinstance(x, torch.FloatTensor) and not isinstance(x, torch.DoubleTensor)
assert torch.Tensor.mean(x).item() == 2.5
torch.Tensor.doubled = lambda self: self * 2
assert x.doubled().tolist() == [[2.0, 4.0], [6.0, 8.0]]
torch.set_default_tensor_type(torch.DoubleTensor)
assert torch.ones(1).dtype is torch.float64 and torch.Tensor([1]).dtype is torch.float64
torch.set_default_tensor_type("torch.FloatTensor")
assert torch.ones(1).dtype is torch.float32
assert x.type(torch.LongTensor).dtype is torch.int64
print("ok")
"""
    assert without_torch(code) == "ok\n"


def test_older_names_do_what_the_new_ones_do() -> None:
    code = """
import warnings, minires
minires.as_torch()
import torch
from torch.autograd import Variable
x = torch.ones(2, requires_grad=True) * 2
v = Variable(x)
assert not v.requires_grad and v.data_ptr() == x.data_ptr() and isinstance(v, Variable)
assert Variable(torch.ones(1), requires_grad=True).requires_grad
net = torch.nn.DataParallel(torch.nn.Linear(2, 1))
assert list(net.state_dict()) == ["module.weight", "module.bias"] and net(torch.ones(3, 2)).shape == (3, 1)
torch.manual_seed(5)
new = torch.nn.init.kaiming_normal_(torch.empty(4, 3))
torch.manual_seed(5)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    old = torch.nn.init.kaiming_normal(torch.empty(4, 3))
assert torch.equal(old, new)
print(caught[0].category.__name__, caught[0].message)
"""
    assert without_torch(code) == (
        "FutureWarning nn.init.kaiming_normal is now deprecated in favor of nn.init.kaiming_normal_\n"
    )


def test_switches_keep_what_was_set_and_scripting_marks_change_nothing() -> None:
    code = """
import minires
minires.as_torch()
import torch
torch.backends.cudnn.benchmark = True
assert torch.backends.cudnn.benchmark is True and torch.backends.cudnn.deterministic is False
torch.use_deterministic_algorithms(True, warn_only=True)
assert torch.are_deterministic_algorithms_enabled()
torch.set_float32_matmul_precision("high")
assert torch.get_float32_matmul_precision() == "high"
torch.set_default_device("cpu")
torch.set_num_interop_threads(2)
assert not torch.jit.is_scripting() and torch.jit.ignore(len) is len
assert torch.finfo(torch.float32).max > 3e38 and torch.finfo(torch.float16).bits == 16
assert torch.iinfo(torch.int8).min == -128
assert torch.ones(1, 1, 2, 2).to(memory_format=torch.channels_last).shape == (1, 1, 2, 2)
torch.cuda.empty_cache()
assert torch.cuda.max_memory_allocated() == 0
print("ok")
"""
    assert without_torch(code) == "ok\n"


def test_set_num_threads_acts_or_warns() -> None:
    """Without threadpoolctl the number cannot change: a warning, unless it is what it is already."""
    code = """
import warnings, minires
minires.as_torch()
import torch
torch.set_num_threads(1)  # OMP_NUM_THREADS=1 already
assert torch.get_num_threads() == 1 and torch.get_num_interop_threads() == 1
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.set_num_threads(3)
print(caught[0].message)
"""
    assert "MINIRES_THREADS=3" in without_torch(code)
    if importlib.util.find_spec("threadpoolctl") is None:
        return
    done = python(
        "import minires; minires.as_torch(); import torch\ntorch.set_num_threads(2); print(torch.get_num_threads())"
    )
    assert done.stdout == "2\n", done.stderr


def test_every_name_is_one_of_torchs() -> None:
    """No name is offered under `torch.` that torch does not have there."""
    torch = pytest.importorskip("torch", reason="PyTorch, the judge of this test, is not installed")
    for module, names in table().items():
        if module == "torch.backends.cuda.matmul":  # an object there
            real = torch.backends.cuda.matmul
        else:
            real = importlib.import_module(module)
        missing = [name for name in names if not hasattr(real, name)]
        assert not missing, f"{module} has no {missing}"
    assert not hasattr(torch.nn.functional, contents.OUR_OWN[0])
