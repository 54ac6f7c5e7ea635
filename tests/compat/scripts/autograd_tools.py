"""What a script may do with autograd: own functions, hooks, second derivatives, checkpoints, older tensor types."""

import torch
import torch.nn as nn
from formula import wave
from torch.autograd import Function, gradcheck
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


class Swish(Function):
    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x)
        ctx.beta = beta
        return x * torch.sigmoid(beta * x)

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(ctx.beta * x)
        return grad_output * (s + ctx.beta * x * s * (1 - s)), None


class Sign(Function):
    """The sign, with the gradient passed straight through where |x| <= 1."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        grad = grad_output.clone()
        grad[x.abs() > 1] = 0
        return grad


def show(name, tensor):
    print(name, " ".join(f"{v:.5f}" for v in tensor.detach().reshape(-1).tolist()))


def main():
    x = (2 * wave(6, 0.3)).requires_grad_()
    y = Swish.apply(x, 1.5)
    y.sum().backward()
    show("swish", y)
    show("its gradient", x.grad)
    print("gradcheck", gradcheck(lambda t: Swish.apply(t, 1.5), (x,)))
    x.grad = None
    (Sign.apply(x) * torch.arange(6)).sum().backward()
    show("straight through", x.grad)

    (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    show("second derivative", second)

    logged = []
    z = x * 2
    z.retain_grad()
    handle = z.register_hook(lambda grad: grad * 10)
    z.register_hook(lambda grad: logged.append(grad.norm().item()))
    z.sin().sum().backward()
    handle.remove()
    show("retained", z.grad)
    print("logged", f"{logged[0]:.5f}")

    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    with torch.no_grad():
        for number, p in enumerate(layers.parameters()):
            p.copy_(wave(p.numel(), number).view_as(p))
    data = wave(12, 0.9).view(2, 6).requires_grad_()
    grads = []
    for run in (
        layers,
        lambda t: checkpoint(layers, t, use_reentrant=False),
        lambda t: checkpoint_sequential(layers, 2, t, use_reentrant=False),
    ):
        layers.zero_grad()
        run(data).sum().backward()
        grads.append(layers[0].weight.grad.clone())
    show("gradient", grads[0][0])
    print("checkpointed the same:", torch.equal(grads[0], grads[1]), torch.equal(grads[0], grads[2]))

    try:
        loss = (x * 1).sum()
        loss.backward()
        loss.backward()
    except RuntimeError as error:
        print("a second backward is a RuntimeError:", "retain_graph=True" in str(error))

    t = torch.Tensor([[1, 2], [3, 4]])
    print(t.dtype == torch.float32, torch.Tensor(2, 3).shape == torch.Size([2, 3]), isinstance(t, torch.FloatTensor))
    print(isinstance(torch.LongTensor([1]), torch.LongTensor), isinstance(t, torch.LongTensor), type(t) == torch.Tensor)
    print(t.type(torch.LongTensor).dtype == torch.int64, torch.finfo(torch.float32).eps, torch.iinfo(torch.uint8).max)
    weight = nn.Parameter(torch.Tensor(2, 2).fill_(0.5))
    print(isinstance(weight, torch.Tensor), isinstance(weight, nn.Parameter), issubclass(nn.Parameter, torch.Tensor))
    print(tuple(t.size()), t.size().numel(), t.numel(), t.dim())
    print(
        torch.count_nonzero(t),
        t.mv(torch.ones(2)),
        t.ravel(),
        torch.masked_fill(t, t > 2, 0.0),
        torch.erf(torch.zeros(1)),
    )


if __name__ == "__main__":
    main()
