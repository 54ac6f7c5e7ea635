"""02: the same with tensors. A two-layer network whose gradients are derived by hand, checked, and trained.

    python examples/02_the_same_with_tensors.py --tiny

A tensor is many numbers that go through the graph together, so one rule of example 01 becomes one matrix formula. Two
facts give all of them:

    matmul:     z = x @ w       grad_w = x^T @ grad_z       grad_x = grad_z @ w^T
    broadcast:  z = x + b       grad_b = sum of grad_z over the axes along which b was repeated

The second is example 01's `+=` again: b was used once for every sample, so every sample has a say in its gradient.
Whoever forgets the sum gets a gradient of the wrong shape, if lucky; where shapes happen to fit, a wrong number.

The task is the two spirals: which arm is a point on? No straight line helps, so the hidden layer has to bend space.
"""

from __future__ import annotations

import numpy as np
from _course import BLUE, INK, ORANGE, closing, heading, parser, picture, table

import minires
from minires.nn import functional as F

NAMES = ("w1", "b1", "w2", "b2")


def spirals(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n points (n, 2) on two arms, and which arm each is on (n,)."""
    arm = np.arange(n) % 2
    t = np.sqrt(rng.random(n))  # the root spreads the points evenly along the arm
    angle = 3.5 * t * np.pi / 1.4 + arm * np.pi
    points = np.stack([t * np.cos(angle), t * np.sin(angle)], axis=1) * 2
    return points + 0.05 * rng.standard_normal((n, 2)), arm


def start(hidden: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "w1": rng.standard_normal((2, hidden)) * 2.0,
        "b1": rng.standard_normal(hidden),
        "w2": rng.standard_normal((hidden, 2)) / np.sqrt(hidden),
        "b2": np.zeros(2),
    }


def loss_by_hand(p: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    z = np.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    z = z - z.max(axis=1, keepdims=True)  # softmax does not change, and exp cannot overflow
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]))


def gradients_by_hand(p: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The forward pass, then the chain rule a line at a time. Shapes: n points, h hidden units, k = 2 classes."""
    n = len(x)
    h = np.tanh(x @ p["w1"] + p["b1"])  # (n, h)
    z = h @ p["w2"] + p["b2"]  # (n, k)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    softmax = e / e.sum(axis=1, keepdims=True)

    # L = -1/n sum log softmax[i, y_i]. Its derivative is the famous difference, prediction minus truth:
    grad_z = softmax.copy()
    grad_z[np.arange(n), y] -= 1
    grad_z /= n  # (n, k)
    grad_w2 = h.T @ grad_z  # (h, k)
    grad_b2 = grad_z.sum(axis=0)  # (k,)    b2 was repeated n times
    grad_h = grad_z @ p["w2"].T  # (n, h)
    grad_a = grad_h * (1 - h**2)  # (n, h)  tanh' = 1 - tanh^2
    grad_w1 = x.T @ grad_a  # (2, h)
    grad_b1 = grad_a.sum(axis=0)  # (h,)
    return {"w1": grad_w1, "b1": grad_b1, "w2": grad_w2, "b2": grad_b2}


def gradients_by_minires(p: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The forward pass; the rest is `loss.backward()`."""
    t = {name: minires.tensor(p[name], requires_grad=True) for name in NAMES}
    h = (minires.from_numpy(x) @ t["w1"] + t["b1"]).tanh()
    loss = F.cross_entropy(h @ t["w2"] + t["b2"], minires.from_numpy(y))
    loss.backward()
    return {name: t[name].grad.numpy() for name in NAMES}


def gradients_by_differences(p: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """(L(w + e) - L(w - e)) / 2e for every single weight: slow, and hard to get wrong."""
    e, result = 1e-6, {name: np.zeros_like(p[name]) for name in NAMES}
    for name in NAMES:
        for i in np.ndindex(p[name].shape):
            kept, sides = p[name][i], []
            for move in (+e, -e):
                p[name][i] = kept + move
                sides.append(loss_by_hand(p, x, y))
            p[name][i] = kept
            result[name][i] = (sides[0] - sides[1]) / (2 * e)
    return result


def train(p: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, gradients, steps: int, every: int) -> list[float]:
    """Gradient descent with momentum on all points at once; the loss at every `every`-th step."""
    velocity = {name: np.zeros_like(p[name]) for name in NAMES}
    losses = []
    for step in range(steps + 1):
        if step % every == 0:
            losses.append(loss_by_hand(p, x, y))
        for name, grad in gradients(p, x, y).items():
            velocity[name] = 0.9 * velocity[name] + grad
            p[name] = p[name] - 0.3 * velocity[name]
    return losses


def accuracy(p: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean((np.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]).argmax(axis=1) == y))


def main() -> None:
    args = parser(__doc__).parse_args()
    points, hidden, steps = (200, 24, 600) if args.tiny else (400, 48, 1500)
    rng = np.random.default_rng(0)
    x, y = spirals(points, rng)
    test_x, test_y = spirals(1000, rng)
    p = start(hidden, rng)

    heading("Three ways to the same gradients (largest difference from the hand-made one)")
    hand, auto = gradients_by_hand(p, x, y), gradients_by_minires(p, x, y)
    judge = gradients_by_differences(p, x, y)
    rows = [
        [
            name,
            str(p[name].shape),
            f"{np.abs(hand[name]).max():.4f}",
            f"{np.abs(auto[name] - hand[name]).max():.1e}",
            f"{np.abs(judge[name] - hand[name]).max():.1e}",
        ]
        for name in NAMES
    ]
    table(["gradient of", "shape", "largest", "minires", "finite differences"], rows)
    print("\n  Two exact methods agree to rounding (1e-16 of float64); finite differences only to about 1e-9.")

    heading("Broadcasting = sum")
    b = minires.tensor([1.0, 2.0], requires_grad=True)
    grad_z = minires.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    (minires.zeros(3, 2) + b).backward(grad_z)
    print(f"  z (3, 2) = x (3, 2) + b (2,);  grad_z = {grad_z.tolist()};  grad_b = {b.grad.tolist()}: columns summed")

    heading(f"Training on two spirals, {points} points, {hidden} hidden units, {steps} steps")
    every = steps // 5
    by_hand, by_minires = ({k: v.copy() for k, v in p.items()} for _ in range(2))
    losses = [
        train(q, x, y, g, steps, every) for q, g in ((by_hand, gradients_by_hand), (by_minires, gradients_by_minires))
    ]
    steps_shown = [str(i * every) for i in range(6)]
    table(
        ["step", *steps_shown],
        [[n, *(f"{v:.6f}" for v in row)] for n, row in zip(("by hand", "minires"), losses, strict=True)],
    )
    print(f"\n  accuracy on 1,000 new points: {100 * accuracy(by_minires, test_x, test_y):.1f} %")

    picture(args.out / "02_spirals.png", (8.4, 3.8), lambda figure: draw(figure, p, by_minires, x, y))
    closing(
        "backprop through tensors is two formulas, and autograd is the bookkeeping around them.",
        "03_convolution_four_ways.py, where the linear map is a convolution.",
    )


def draw(figure, before: dict[str, np.ndarray], after: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
    """The plane coloured by the network's belief, before and after training."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("two arms", ["#9CC9E6", "white", "#F2B98F"])
    side = np.linspace(-2.4, 2.4, 161)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    for axis, p, title in zip(
        figure.subplots(1, 2), (before, after), ("Before training", "After training"), strict=True
    ):
        z = np.tanh(grid @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
        belief = 1 / (1 + np.exp(z[..., 0] - z[..., 1]))  # softmax of two classes
        shown = axis.pcolormesh(side, side, belief, cmap=shades, vmin=0, vmax=1, shading="gouraud", rasterized=True)
        axis.contour(side, side, belief, levels=[0.5], colors=INK, linewidths=1.2)
        for arm, colour, marker in ((0, BLUE, "o"), (1, ORANGE, "^")):
            axis.scatter(*x[y == arm].T, s=13, color=colour, marker=marker, label=f"arm {arm}", lw=0)
        axis.set(title=f"{title}: {100 * accuracy(p, x, y):.1f} % right", aspect="equal", xticks=[], yticks=[])
        axis.grid(False)
        axis.legend(loc="lower right", fontsize=9, frameon=True, framealpha=0.85, edgecolor="none")
    figure.colorbar(shown, ax=figure.axes, label="belief in arm 1", ticks=[0, 0.5, 1])


if __name__ == "__main__":
    main()
