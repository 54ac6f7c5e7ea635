"""What to use instead of the names of torch that minires does not have: one table, and the message made from it.

A key names a function, a class or a whole module; the longest key that a name begins with serves it, so `torch.fft` also
answers for `torch.fft.rfft2`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_EAGER = "leave it out: minires runs the model as it is written, and results are the same"
_NO_GPU = "there is no GPU kernel set in this version of minires; run on the CPU (torch.cuda.is_available() is False)"
_OPTIMIZER = "use optim.SGD, optim.Adam or optim.AdamW"
_SEQUENCE = "minires is made for convolutional networks; write it with nn.Linear, matmul and softmax"
_ONE_PROCESS = "minires trains in one process; run the script without its distributed options"
_TWO_D = "give the input a fourth dimension (x.unsqueeze(2)) and use the 2d form"
_WEIGHTS = (
    "minires downloads no weights; build the model without pretrained=True, and load a checkpoint that "
    "minires saved with torch.load"
)

HINTS: dict[str, str] = {
    # Compilers, exporters, profilers.
    "torch.compile": _EAGER,
    "torch.jit": _EAGER,
    "torch.fx": "go through model.named_modules(), or watch the layers with register_forward_hook",
    "torch._dynamo": _EAGER,
    "torch.export": _EAGER,
    "torch.onnx": "minires.export_onnx(model, file, (1, 3, 224, 224)) writes ONNX files; or torch.save(model.state_dict(), file), "
    "then `minires export FILE --format onnx`",
    "torch.profiler": "set MINIRES_DEBUG=2: every operation prints its time",
    "torch.autograd.profiler": "set MINIRES_DEBUG=2: every operation prints its time",
    "torch.utils.benchmark": "measure with time.perf_counter()",
    "torch.utils.bottleneck": "set MINIRES_DEBUG=2: every operation prints its time",
    "torch.utils.collect_env": "run `minires doctor`",
    "torch.utils.tensorboard": "write the numbers to a file, or use tensorboardX's SummaryWriter, which needs no torch",
    "torch.utils.cpp_extension": "write a torch.autograd.Function in Python, or a function of minires.kernels",
    "torch.utils.mobile_optimizer": _EAGER,
    # Numbers and algebra.
    "torch.einsum": "write it with permute, matmul and sum: einsum('bij,bjk->bik', a, b) is a @ b",
    "torch.fft": "work on tensor.detach().numpy() with numpy.fft; it has no gradient",
    "torch.linalg.norm": "use torch.norm(x, p, dim)",
    "torch.linalg.vector_norm": "use torch.norm(x, p, dim)",
    "torch.linalg": "work on tensor.detach().numpy() with numpy.linalg; it has no gradient",
    "torch.special": "compose it from torch.exp, torch.log, torch.erf",
    "torch.sparse": "use dense tensors",
    "torch.distributions": "draw with torch.randn, torch.rand, torch.bernoulli or NumPy",
    "torch.bfloat16": "use torch.float32 (NumPy has no bfloat16)",
    "torch.complex64": "keep real and imaginary parts in two float tensors",
    "torch.complex128": "keep real and imaginary parts in two float tensors",
    "torch.quint8": "use torch.float32",
    "torch.multinomial": "use torch.utils.data.WeightedRandomSampler, or numpy.random.Generator.choice",
    "torch.median": "use torch.sort(x, dim).values and index the middle",
    "torch.quantile": "work on tensor.detach().numpy() with numpy.quantile",
    "torch.func": "use torch.autograd.grad",
    "torch.vmap": "write the batch dimension yourself: all operations take it",
    "torch.autograd.functional": "use torch.autograd.grad, once for each output",
    "torch.autograd.forward_ad": "use torch.autograd.grad with create_graph=True",
    "torch.testing": "use numpy.testing.assert_allclose(a.numpy(), b.numpy())",
    # Precision, devices, processes.
    "torch.quantization": "use torch.float32",
    "torch.ao": "use torch.float32",
    "torch.cuda": _NO_GPU,
    "torch.mps": _NO_GPU,
    "torch.xpu": _NO_GPU,
    "torch.backends": _NO_GPU,
    "torch.distributed": _ONE_PROCESS,
    "torch.multiprocessing": _ONE_PROCESS + "; torch.utils.data.DataLoader has its own workers",
    "torch.nn.parallel": _ONE_PROCESS,
    "torch.utils.data.distributed": _ONE_PROCESS,
    "torch.utils.data.datapipes": "use torch.utils.data.IterableDataset",
    "torch.set_flush_denormal": "leave it out",
    # Layers.
    "torch.nn.RNN": _SEQUENCE,
    "torch.nn.LSTM": _SEQUENCE,
    "torch.nn.GRU": _SEQUENCE,
    "torch.nn.Transformer": _SEQUENCE,
    "torch.nn.MultiheadAttention": _SEQUENCE,
    "torch.nn.functional.scaled_dot_product_attention": "use torch.softmax(q @ k.mT / math.sqrt(q.size(-1)), -1) @ v",
    "torch.nn.Embedding": "use an nn.Parameter and index it with the tensor of ids",
    "torch.nn.functional.embedding": "index the weight with the tensor of ids: weight[ids]",
    "torch.nn.Conv1d": _TWO_D,
    "torch.nn.Conv3d": "minires convolves images: nn.Conv2d",
    "torch.nn.functional.conv1d": _TWO_D,
    "torch.nn.functional.conv3d": "minires convolves images: F.conv2d",
    "torch.nn.BatchNorm3d": "use nn.BatchNorm2d on x.flatten(3)",
    "torch.nn.MaxPool1d": _TWO_D,
    "torch.nn.AvgPool1d": _TWO_D,
    "torch.nn.AdaptiveAvgPool1d": "use x.mean(-1, keepdim=True) for output size 1",
    "torch.nn.functional.max_pool1d": _TWO_D,
    "torch.nn.functional.avg_pool1d": _TWO_D,
    "torch.nn.PReLU": "use nn.LeakyReLU, or an nn.Parameter a and torch.where(x > 0, x, a * x)",
    "torch.nn.SELU": "use nn.ELU",
    "torch.nn.CELU": "use nn.ELU",
    "torch.nn.LogSigmoid": "use F.logsigmoid",
    "torch.nn.PixelShuffle": "use view and permute",
    "torch.nn.KLDivLoss": "sum(target * (target.log() - input)), divided by the batch size for 'batchmean'",
    "torch.nn.functional.kl_div": "(target * (target.log() - input)).sum(), divided by the batch size for 'batchmean'",
    "torch.nn.BCELoss": "use nn.BCEWithLogitsLoss on the values before the sigmoid (it is also the more exact)",
    "torch.nn.functional.binary_cross_entropy": "use F.binary_cross_entropy_with_logits before the sigmoid",
    "torch.nn.functional.unfold": "use F.conv2d, or numpy.lib.stride_tricks on .detach().numpy()",
    "torch.nn.functional.upsample": "use F.interpolate, its newer name",
    "torch.nn.functional.gumbel_softmax": "compose it from torch.rand, torch.log and F.softmax",
    "torch.nn.utils.rnn": _SEQUENCE,
    "torch.nn.utils.prune": "multiply the weights by a mask in forward",
    "torch.nn.utils.weight_norm": "compute g * v / v.norm() in forward",
    "torch.nn.utils.spectral_norm": "divide the weight in forward by its largest singular value",
    "torch.nn.utils.parametrize": "compute the weight in forward",
    "torch.nn.utils.parametrizations": "compute the weight in forward",
    "torch.nn.utils.fusion": "call model.eval(): batch norm then uses its running statistics",
    # Optimisers and schedules.
    "torch.optim.RMSprop": _OPTIMIZER,
    "torch.optim.Adagrad": _OPTIMIZER,
    "torch.optim.Adadelta": _OPTIMIZER,
    "torch.optim.Adamax": _OPTIMIZER,
    "torch.optim.NAdam": _OPTIMIZER,
    "torch.optim.RAdam": _OPTIMIZER,
    "torch.optim.LBFGS": _OPTIMIZER,
    "torch.optim.swa_utils": "average the state dicts yourself: they are dicts of tensors",
    "torch.optim.lr_scheduler.CyclicLR": "use OneCycleLR, or LambdaLR for cycles",
    # Other libraries, which need the real torch.
    # An import of torchvision.models asks for torchvision first, so this one line answers for all of it.
    "torchvision": "instead of its transforms use minires.data.augment, of its datasets minires.data.load('cifar10') or "
    "minires.data.image_folder, of its models minires.models.resnet18() and so on: the same architectures and key names",
    "torchaudio": "minires is made for images",
    "torchtext": "minires is made for images",
    "torchmetrics": "count with (output.argmax(1) == target).sum().item()",
    "torch.hub": _WEIGHTS,
    "torch.utils.model_zoo": _WEIGHTS,
}


def explain(name: str, known: Iterable[str] = ()) -> str:
    """The message for `name` (`torch.nn.LSTM`): that it is not there, and what to use instead.

    Args:
        name: dotted, as a script would write it.
        known: the names that its module does have; the nearest are offered where the table is silent.
    """
    root = name.partition(".")[0]
    if root == "torch":
        text = f"{name} is outside the part of torch that minires has"
    else:
        text = f"{name} needs the real torch, and minires stands in its place"
    parent, _, last = name.rpartition(".")
    near = difflib.get_close_matches(last, list(known), n=3, cutoff=0.8)
    hint = _hint(name)
    if near and name not in HINTS:
        return f"{text}; did you mean {' or '.join(f'{parent}.{other}' for other in near)}?"
    if hint:
        return f"{text}; {hint}"
    return f"{text}; compose it from what dir({parent or root}) lists, or work on tensor.detach().numpy()"


def _hint(name: str) -> str:
    """The hint of the longest key that `name` begins with."""
    while name:
        if name in HINTS:
            return HINTS[name]
        name = name.rpartition(".")[0]
    return ""
