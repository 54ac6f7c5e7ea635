"""Cross entropy of logits, and the negative log likelihood: the losses of classification.

Source: C. Bishop, "Pattern Recognition and Machine Learning", 2006, section 4.3.4; label smoothing: C. Szegedy et al.,
"Rethinking the Inception Architecture", 2015, section 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Op, apply
from minires.errors import ArgumentError, DTypeError, GradError, LabelError, ShapeError, UnsupportedError
from minires.ops.arithmetic import where
from minires.ops.checks import check_floating, check_same_device, check_same_dtype, check_tensor
from minires.ops.index import gather
from minires.ops.reduce import sum as sum_over
from minires.ops.shape import reshape
from minires.ops.softmax import SoftmaxBackward, log_softmax, softmax

if TYPE_CHECKING:
    from minires.tensor import Tensor

REDUCTIONS = ("mean", "sum", "none")


class CrossEntropy(Op):
    """loss = -sum over classes of q log softmax(x), q the smoothed, weighted label; one loss a sample (0 where ignored).

    dL/dx = g (p sum(q) - q),  p = softmax(x), g = dL/dloss.

    Saves: x, and log p, which is a function of x: the second derivative computes it again.
    """

    name = "cross_entropy"

    @staticmethod
    def forward(ctx: Any, x: Any, target: Any, weight: Any, ignore_index: int, label_smoothing: float) -> Any:
        loss, ctx.log_p = ctx.kernels.cross_entropy_forward(x, target, weight, ignore_index, label_smoothing)
        ctx.save_for_backward(x)
        ctx.labels = target, weight, ignore_index, label_smoothing
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Any) -> Any:
        (x,) = ctx.saved_tensors
        return apply(CrossEntropyBackward, grad_loss, x, ctx.log_p, *ctx.labels)


class CrossEntropyBackward(Op):
    """v = g (p Q - q), Q = sum(q) over the classes, by one kernel.

    For what comes back (u): to g, sum over classes of u (p Q - q); to x, through p = softmax(x), with a = u g Q:
    p (a - <a, p>), which is softmax's backward.
    """

    name = "cross_entropy_backward"

    @staticmethod
    def forward(
        ctx: Any,
        grad_loss: Any,
        x: Any,
        log_p: Any,
        target: Any,
        weight: Any,
        ignore_index: int,
        label_smoothing: float,
    ) -> Any:
        ctx.save_for_backward(grad_loss, x)
        ctx.labels = target, weight, ignore_index, label_smoothing
        return ctx.kernels.cross_entropy_backward(grad_loss, log_p, target, weight, ignore_index, label_smoothing)

    @staticmethod
    def backward(ctx: Any, u: Any) -> Any:
        grad_loss, x = ctx.saved_tensors
        share = _label_shares(ctx.xp, x.array, *ctx.labels)
        total = share.sum(axis=1, keepdims=True)
        p = softmax(x, 1)
        g = reshape(grad_loss, (x.shape[0], 1, *x.shape[2:]))
        to_grad_loss = sum_over(u * (p * total - share), 1)
        return to_grad_loss, apply(SoftmaxBackward, u * g * total, p, 1)


def _label_shares(xp: Any, x: Any, target: Any, weight: Any, ignore_index: int, label_smoothing: float) -> Any:
    """q (N, C, *): weight[k] ((1 - label_smoothing) [k = target] + label_smoothing / C), zero for ignored samples."""
    classes = x.shape[1]
    column = (classes, *[1] * (x.ndim - 2))
    is_label = target[:, None] == xp.arange(classes).reshape(column)
    share = (1 - label_smoothing) * is_label + label_smoothing / classes
    if weight is not None:
        share = share * weight.reshape(column)
    return xp.where(target[:, None] != ignore_index, share, 0).astype(x.dtype)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross entropy between targets and softmax(input).

    Args:
        input: logits (C,), (N, C) or (N, C, d1, ...), floating.
        target: class indices, integer, of input's shape without C, in [0, C) or ignore_index; or probabilities of the
            classes, floating, of input's shape.
        weight: (C,), a factor for each class; no gradient flows to it with class indices.
        ignore_index: samples with this label count for nothing (class indices only).
        reduction: 'mean' divides by the sum of the labels' weights (with probabilities: by the number of samples).
        label_smoothing: the share of a uniform distribution mixed into the target, from 0 to 1.

    Returns:
        a number, or with 'none' input's shape without C.

    Raises:
        LabelError: a label outside [0, C), with its place.
        ShapeError, DTypeError, ArgumentError, GradError, UnsupportedError: what does not fit, and why.
    """
    check_options("cross_entropy", reduction, size_average, reduce)
    _check_logits("cross_entropy", input, target, weight)
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"cross_entropy: label_smoothing must be from 0 to 1, got {label_smoothing}")
    batched, per_sample = _as_batch(input)
    if target.raw.dtype.kind == "f":
        _check_probabilities(input, target, ignore_index)
        loss = _cross_entropy_of_probabilities(batched, target, weight, float(label_smoothing))
        if reduction == "none":
            return reshape(loss, per_sample)
        total = sum_over(loss)
        return total if reduction == "sum" else total / loss.raw.size
    labels = _check_labels("cross_entropy", batched, target, per_sample, weight, ignore_index)
    loss = apply(CrossEntropy, batched, labels, weight, ignore_index, float(label_smoothing))
    return _reduce_labelled(loss, labels, weight, ignore_index, reduction, per_sample)


def _cross_entropy_of_probabilities(x: Any, target: Any, weight: Any, label_smoothing: float) -> Any:
    """-sum over classes of weight target log p: composed, so that gradients flow to target and weight as well."""
    share = reshape(target, x.shape)
    if label_smoothing:
        share = share * (1 - label_smoothing) + label_smoothing / x.shape[1]
    if weight is not None:
        share = share * reshape(weight, (-1, *[1] * (x.ndim - 2)))
    return -sum_over(share * log_softmax(x, 1), 1)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """-weight[target] input[target]: the negative log likelihood, `input` being log probabilities (`log_softmax`).

    Args:
        input: (C,), (N, C) or (N, C, d1, ...), floating.
        target, weight, ignore_index, reduction: as for `cross_entropy` with class indices.

    Raises:
        LabelError: a label outside [0, C), with its place.
        ShapeError, DTypeError, ArgumentError, GradError, UnsupportedError: what does not fit, and why.
    """
    check_options("nll_loss", reduction, size_average, reduce)
    _check_logits("nll_loss", input, target, weight)
    batched, per_sample = _as_batch(input)
    labels = _check_labels("nll_loss", batched, target, per_sample, weight, ignore_index)
    kept = labels != ignore_index
    safe = np.where(kept, labels, 0)
    if batched.raw.size:
        index = type(target)(safe[:, None].astype(np.int64))
        picked = reshape(gather(batched, 1, index), labels.shape)
    else:
        picked = sum_over(batched, 1)  # an empty batch: nothing to pick, and the graph goes on
    loss = where(kept, picked * (-1.0 if weight is None else -weight.array[safe]), 0.0)
    return _reduce_labelled(loss, labels, weight, ignore_index, reduction, per_sample)


def _as_batch(input: Any) -> tuple[Any, tuple[int, ...]]:
    """input as (N, C, *), and the shape of one loss a sample: () for an unbatched (C,)."""
    if input.ndim == 1:
        return reshape(input, (1, input.shape[0])), ()
    return input, (input.shape[0], *input.shape[2:])


def _reduce_labelled(
    loss: Any, labels: Any, weight: Any, ignore_index: int, reduction: str, per_sample: tuple[int, ...]
) -> Any:
    """'mean' divides by the sum of the weights of the labels that count."""
    if reduction == "none":
        return reshape(loss, per_sample)
    total = sum_over(loss)
    if reduction == "sum":
        return total
    kept = labels != ignore_index
    return total / (float(kept.sum()) if weight is None else float(weight.array[labels[kept]].sum()))


def _check_logits(op: str, input: Any, target: Any, weight: Any) -> None:
    check_tensor(op, "input", input)
    check_tensor(op, "target", target)
    check_floating(op, "input", input)
    if input.ndim == 0:
        raise ShapeError(f"{op}: input needs a dimension of classes: (C,), (N, C) or (N, C, d1, ...), got no dimension")
    classes = input.shape[0] if input.ndim == 1 else input.shape[1]
    if weight is not None:
        check_tensor(op, "weight", weight)
        check_same_dtype(op, input=input, weight=weight)
        if tuple(weight.shape) != (classes,):
            raise ShapeError(
                f"{op}: weight must have shape ({classes},), one value per class, got {tuple(weight.shape)}"
            )
    check_same_device(op, input=input, target=target, weight=weight)


def _check_probabilities(input: Any, target: Any, ignore_index: int) -> None:
    check_same_dtype("cross_entropy", input=input, target=target)
    if input.shape != target.shape:
        raise ShapeError(
            f"cross_entropy: a floating target holds class probabilities and needs input's shape {tuple(input.shape)}, got "
            f"{tuple(target.shape)}; convert class indices with .long()"
        )
    if ignore_index >= 0:
        raise ArgumentError(
            f"cross_entropy: ignore_index has no meaning for a target of class probabilities, got {ignore_index}; give "
            "ignored samples a target of zeros"
        )


def _check_labels(op: str, input: Any, target: Any, per_sample: tuple[int, ...], weight: Any, ignore_index: int) -> Any:
    """target as an array of one label a sample, all in [0, C) or ignore_index."""
    labels, classes = target.array, input.shape[1]
    if labels.dtype.kind not in "iu":
        raise DTypeError(
            f"{op}: target of class indices needs an integer dtype, got {labels.dtype}; convert with .long()"
        )
    if tuple(labels.shape) != per_sample:
        raise ShapeError(
            f"{op}: target of class indices needs input's shape without the classes, {per_sample}, got "
            f"{tuple(labels.shape)}" + ("; a one-hot target must be floating" if op == "cross_entropy" else "")
        )
    if weight is not None and weight.requires_grad:
        raise GradError(f"{op}: weight must not require grad: no derivative flows to class weights; use .detach()")
    outside = ((labels < 0) | (labels >= classes)) & (labels != ignore_index)
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        at = f"target[{', '.join(map(str, place))}]" if place else "target"
        raise LabelError(
            f"{op}: labels must be in [0, {classes}), {classes} being the number of classes, or ignore_index = {ignore_index}; "
            f"got {at} = {int(labels[place])} (the first of {int(outside.sum())})"
        )
    return labels.reshape((1,)) if not per_sample and labels.ndim == 0 else labels


def check_options(op: str, reduction: Any, size_average: Any, reduce: Any) -> None:
    """`reduction` is one of the three words; torch's older arguments for it are refused."""
    if size_average is not None or reduce is not None:
        raise UnsupportedError(
            f"{op}: size_average and reduce are not supported; use reduction='mean', 'sum' or 'none'"
        )
    if reduction not in REDUCTIONS:
        raise ArgumentError(f"{op}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
