"""Normalisation layers: `BatchNorm1d`, `BatchNorm2d`, `SyncBatchNorm`, `InstanceNorm2d`, `GroupNorm`, `LayerNorm`.

All compute y = (x - mean) / sqrt(var + eps) * weight + bias and differ in what mean and var are taken over. For x of
shape (N, C, H, W):

    batch norm      over N, H, W: one mean a channel. In evaluation, stored means in their place
    layer norm      over the last dimensions: one mean a sample (and position)
    group norm      over H, W and the channels of one group: one mean a sample and group
    instance norm   group norm with one channel a group
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minires.autograd import no_grad
from minires.creation import empty, ones, zeros
from minires.dtypes import int64
from minires.errors import ArgumentError, ShapeError, UnsupportedError
from minires.nn import functional as F
from minires.nn import init
from minires.nn.module import Module
from minires.nn.parameter import Parameter
from minires.tensor import Tensor


class _BatchNorm(Module):
    """Batch norm over every dimension but the second.

    Two variances: the batch's biased one (divided by n) normalises, the unbiased one (n - 1) goes into `running_var`.

    Which statistics normalise?
                                     training                        evaluation
        track_running_stats=True     the batch's; running updated    the running ones
        track_running_stats=False    the batch's                     the batch's

    Source: Ioffe and Szegedy 2015, Batch Normalization, algorithms 1 and 2.
    """

    # torch added this buffer late; files from before it load without it.
    _optional_state = ("num_batches_tracked",)
    _ranks: tuple[int, ...] = ()

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        kind = {"device": device, "dtype": dtype}
        self.register_parameter("weight", Parameter(empty(num_features, **kind)) if affine else None)
        self.register_parameter("bias", Parameter(empty(num_features, **kind)) if affine and bias else None)
        tracked = track_running_stats
        self.register_buffer("running_mean", zeros(num_features, **kind) if tracked else None)
        self.register_buffer("running_var", ones(num_features, **kind) if tracked else None)
        self.register_buffer("num_batches_tracked", zeros((), dtype=int64, device=device) if tracked else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches seen."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with no_grad():
                self.running_mean.zero_()
                self.running_var.fill_(1)
                self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Running statistics as new, weight 1, bias 0."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return self._normalize(F.batch_norm, input)

    def _normalize(self, function: Callable[..., Tensor], input: Tensor, **options: Any) -> Tensor:
        """`function`, F.batch_norm or one that goes on from it, with this layer's statistics, parameters and settings."""
        if input.ndim not in self._ranks:
            wanted = " or ".join(f"{rank}D" for rank in self._ranks)
            raise ShapeError(f"{self._get_name()}: expected {wanted} input, got shape {tuple(input.shape)}")
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            with no_grad():
                self.num_batches_tracked.add_(1)
            if self.momentum is None:
                # The average over all batches so far: the k-th moves the mean by 1/k.
                momentum = 1.0 / float(self.num_batches_tracked.item())
        # Without running statistics the batch's are used in evaluation too.
        use_batch = self.training or (self.running_mean is None and self.running_var is None)
        update = not self.training or self.track_running_stats
        return function(
            input,
            self.running_mean if update else None,
            self.running_var if update else None,
            self.weight,
            self.bias,
            use_batch,
            momentum,
            self.eps,
            **options,
        )

    def _normalize_relu(self, input: Tensor, shortcut: Tensor | None) -> Tensor:
        """relu(self(input) [+ shortcut]), as one operation."""
        return self._normalize(F.batch_norm_relu, input, shortcut=shortcut)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    __doc__ = "Batch norm over (N, C) or (N, C, L).\n\n" + str(_BatchNorm.__doc__).partition("\n\n")[2]
    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = "Batch norm over (N, C, H, W).\n\n" + str(_BatchNorm.__doc__).partition("\n\n")[2]
    _ranks = (4,)


class SyncBatchNorm(_BatchNorm):
    """Batch norm with the statistics of the whole batch, over all processes that train together (`minires.distributed`).

    With half the batch a process, plain batch norm would normalise each half by itself, and the network that comes out depends on
    how many processes there were. Here every process has the mean and variance of all; in evaluation, and in one process, it is
    plain batch norm. Parameters and buffers have batch norm's names: a checkpoint of one loads into the other.

        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)

    Shapes: (N, C, *) to the same; N may differ between processes.

    Source: Zhang et al. 2018 (arXiv 1803.08904), section 3.2; Peng et al. 2018 (arXiv 1711.07240), section 3.3.
    """

    _ranks = (2, 3, 4)

    def forward(self, input: Tensor) -> Tensor:
        from minires.distributed.sync_norm import sync_batch_norm  # here: it is built on the engine, and few need it

        return self._normalize(sync_batch_norm, input)

    def _normalize_relu(self, input: Tensor, shortcut: Tensor | None) -> Tensor:
        from minires.distributed.sync_norm import sync_batch_norm_relu

        return self._normalize(sync_batch_norm_relu, input, shortcut=shortcut)

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """Put a SyncBatchNorm in the place of every batch norm in `module`, with the same parameters and buffers.

        Args:
            module: changed in place; a batch norm itself is left alone, and its replacement returned.
            process_group: torch's argument; None, all processes, is what there is.

        Returns:
            `module`, or what takes its place.
        """
        if process_group is not None:
            raise UnsupportedError("SyncBatchNorm: process_group must be None: all processes take part")
        if isinstance(module, _BatchNorm) and not isinstance(module, cls):
            made = cls(module.num_features, module.eps, module.momentum, False, False)
            made.affine, made.track_running_stats = module.affine, module.track_running_stats
            # The very same objects: an optimiser goes on holding them.
            made._parameters.update(module._parameters)
            made._buffers.update(module._buffers)
            made.train(module.training)
            return made
        for name, child in list(module.named_children()):
            replaced = cls.convert_sync_batchnorm(child)
            if replaced is not child:
                setattr(module, name, replaced)
        return module


class InstanceNorm2d(Module):
    """Each channel of each sample normalised by its own mean and variance over H, W.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: has no effect without running statistics.
        affine: whether there are a weight and a bias of shape (C,).
        track_running_stats: only False is there.

    Source: Ulyanov et al. 2016, Instance Normalization.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if track_running_stats:
            raise UnsupportedError(
                "InstanceNorm2d: track_running_stats=True is not there; leave it False, or use BatchNorm2d"
            )
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        kind = {"device": device, "dtype": dtype}
        self.register_parameter("weight", Parameter(ones(num_features, **kind)) if affine else None)
        self.register_parameter("bias", Parameter(zeros(num_features, **kind)) if affine and bias else None)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim == 3:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        if input.ndim != 4:
            raise ShapeError(f"InstanceNorm2d: expected 3D or 4D input, got shape {tuple(input.shape)}")
        return F.group_norm(input, self.num_features, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class GroupNorm(Module):
    """Each group of channels of each sample normalised by its own mean and variance.

    Args:
        num_groups: into how many groups the channels are cut; must divide `num_channels`.
        num_channels: C.
        eps: added to the variance.
        affine: whether there are a weight and a bias of shape (C,).

    Source: Wu and He 2018, Group Normalization, equation 7.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_groups <= 0 or num_channels % num_groups:
            raise ArgumentError(
                f"GroupNorm: num_channels must be divisible by num_groups, got num_channels={num_channels}, "
                f"num_groups={num_groups}"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        kind = {"device": device, "dtype": dtype}
        self.register_parameter("weight", Parameter(empty(num_channels, **kind)) if affine else None)
        self.register_parameter("bias", Parameter(empty(num_channels, **kind)) if affine and bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _ones_and_zeros(self)

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LayerNorm(Module):
    """The last dimensions of each sample normalised by their own mean and variance.

    Args:
        normalized_shape: sizes of those last dimensions; an int for one.
        eps: added to the variance.
        elementwise_affine: whether there are a weight and a bias of shape `normalized_shape`.
        bias: whether the bias is there.

    Source: Ba, Kiros and Hinton 2016, Layer Normalization, equation 3.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape = shape
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        kind = {"device": device, "dtype": dtype}
        self.register_parameter("weight", Parameter(empty(shape, **kind)) if elementwise_affine else None)
        self.register_parameter("bias", Parameter(empty(shape, **kind)) if elementwise_affine and bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _ones_and_zeros(self)

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


def _ones_and_zeros(module: Module) -> None:
    if module.weight is not None:
        init.ones_(module.weight)
    if module.bias is not None:
        init.zeros_(module.bias)
