"""01: backprop by hand, on a graph of single numbers. Why the order must be topological.

    python examples/01_backprop_by_hand.py --tiny

The whole of backpropagation is one rule, the chain rule, applied from the result back to the inputs:

    grad(input) += local derivative * grad(output)

`+=`, because a value that is used twice changes the result in two ways, and the two add up. The rule is easy; what goes
wrong is *when* it is applied. A value may hand its gradient on only after it has received all of it. The smallest graph
where that matters is the diamond, and this script computes it in the right order and in three tempting wrong ones.
"""

from __future__ import annotations

import sys
from typing import Any

from _course import BLUE, GREY, INK, ORANGE, closing, heading, parser, picture, table

import minires

CHAIN = 5_000  # operations in a row: a deep network with its batch norms has as many


class Value:
    """A number that remembers which numbers it came from, and the derivative with respect to each of them."""

    def __init__(self, data: float, parents: tuple[tuple[Value, float], ...] = (), name: str = "") -> None:
        self.data, self.grad, self.parents, self.name = data, 0.0, parents, name

    def __add__(self, other: Value) -> Value:  # z = x + y:  dz/dx = 1, dz/dy = 1
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other: Value) -> Value:  # z = x y:    dz/dx = y, dz/dy = x
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))


# Four ways to visit the graph. Each returns how many times it visited a value.


def naive_dfs(node: Value) -> int:
    """Wrong: depth first, each value once. A value hands on what it has *so far*; what comes later stays with it."""
    node.grad, seen = 1.0, set()

    def visit(v: Value) -> int:
        if v in seen:
            return 0
        seen.add(v)
        visits = 1
        for parent, local in v.parents:
            parent.grad += local * v.grad
            visits += visit(parent)
        return visits

    return visit(node)


def push_again(node: Value) -> int:
    """Wrong: without `seen`, the second visit hands on the sum, so what was handed on before is counted twice."""
    node.grad = 1.0

    def visit(v: Value) -> int:
        visits = 1
        for parent, local in v.parents:
            parent.grad += local * v.grad
            visits += visit(parent)
        return visits

    return visit(node)


def path_by_path(node: Value) -> int:
    """Right, and hopeless: hand on each *contribution* by itself, along every path. n diamonds have 2^n paths."""

    def visit(v: Value, contribution: float) -> int:
        v.grad += contribution
        return 1 + sum(visit(parent, local * contribution) for parent, local in v.parents)

    return visit(node, 1.0)


def topological(node: Value) -> int:
    """Right: a value comes after everything that uses it. Count the users, release a value when all have reported.

    A loop with a list of what is ready, no recursion: Python's stack ends after about 1,000 calls, networks do not.
    """
    users: dict[Value, int] = {}
    found = [node]
    while found:
        for parent, _ in found.pop().parents:
            if parent not in users:
                found.append(parent)
            users[parent] = users.get(parent, 0) + 1
    node.grad, ready, visits = 1.0, [node], 0
    while ready:
        v = ready.pop()
        visits += 1
        for parent, local in v.parents:
            parent.grad += local * v.grad
            users[parent] -= 1
            if users[parent] == 0:  # its gradient is complete
                ready.append(parent)
    return visits


ORDERS = {"naive DFS": naive_dfs, "push again": push_again, "path by path": path_by_path, "topological": topological}


def diamond(x: float) -> tuple[Value, ...]:
    """x -> a -> (b, c) -> y:   a = 2x,  b = a + 1,  c = 3a,  y = b c.

    By hand: dy/db = c;  dy/dc = b;  dy/da = c + 3b, one term from each side;  dy/dx = 2 (c + 3b).
    At x = 2: a = 4, b = 5, c = 12, so dy/dx = 2 (12 + 15) = 54.
    """
    vx = Value(x, name="x")
    a = vx * Value(2.0)
    b, c = a + Value(1.0), a * Value(3.0)
    y = b * c
    a.name, b.name, c.name, y.name = "a = 2x", "b = a + 1", "c = 3a", "y = b c"
    return vx, a, b, c, y


def stacked_diamonds(n: int) -> tuple[Value, Value]:
    """x -> h + h -> h + h -> ...: y = 2^n x."""
    x = y = Value(1.0)
    for _ in range(n):
        y = y + y
    return x, y


def chain(n: int) -> tuple[Value, Value]:
    """y = x + 1 + 1 + ... + 1."""
    x = y = Value(0.0)
    for _ in range(n):
        y = y + Value(1.0)
    return x, y


def main() -> None:
    args = parser(__doc__).parse_args()
    counts = [1, 5, 10, 12] if args.tiny else [1, 5, 10, 15, 18]

    heading("The diamond at x = 2")
    e = 1e-6  # finite differences: the judge, who knows nothing of graphs
    judge = (diamond(2 + e)[-1].data - diamond(2 - e)[-1].data) / (2 * e)
    rows, answers = [], {}
    for name, order in ORDERS.items():
        values = diamond(2.0)
        visits = order(values[-1])
        answers[name] = values
        rows.append([name, f"{values[0].grad:g}", "right" if abs(values[0].grad - judge) < 1e-6 else "WRONG", visits])
    table(["order", "dy/dx", "", "visits"], [*rows, ["finite differences", f"{judge:.6f}", "", ""]])
    print("\n  Naive DFS went y, b, a, x: `a` handed on the 12 that came through b before it had the 15 through c.")

    heading("n diamonds in a row: visits")
    visits = {name: [ORDERS[name](stacked_diamonds(n)[1]) for n in counts] for name in ("path by path", "topological")}
    table(["order", *(f"n = {n}" for n in counts)], [[n, *(f"{v:,}" for v in vs)] for n, vs in visits.items()])

    heading(f"A chain of {CHAIN:,} additions")
    for name, order in ORDERS.items():
        x, y = chain(CHAIN)
        try:
            order(y)
            print(f"  {name:14} dy/dx = {x.grad:g}")
        except RecursionError:
            print(f"  {name:14} RecursionError (Python's limit is {sys.getrecursionlimit():,} calls)")

    heading("The same with minires")
    x = minires.tensor(2.0, dtype=minires.float64, requires_grad=True)
    a = x * 2
    y = (a + 1) * (a * 3)
    y.backward()
    print(f"  diamond        dy/dx = {x.grad.item():g}")
    x = y = minires.tensor(0.0, requires_grad=True)
    for _ in range(CHAIN):
        y = y + 1
    y.backward()
    print(f"  chain          dy/dx = {x.grad.item():g}")

    picture(args.out / "01_diamond.png", (12, 3.6), lambda figure: draw(figure, answers, counts, visits))
    closing(
        "a gradient is handed on when it is complete: topological order, each value once, in a loop.",
        "02_the_same_with_tensors.py. In minires this is autograd/engine.py, which counts users in the same way.",
    )


def draw(figure: Any, answers: dict[str, Any], counts: list[int], visits: dict[str, list[int]]) -> None:
    """The diamond under three orders, and the number of visits."""
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.3])
    figure.suptitle("Gradients flow down, from y to x = 2: who hands on too early?", x=0.01, ha="left", fontsize=12)
    right = [v.grad for v in answers["topological"]]
    places = [(0.5, 0.06), (0.5, 0.36), (0.2, 0.66), (0.8, 0.66), (0.5, 0.94)]
    edges = [(1, 0), (2, 1), (3, 1), (4, 2), (4, 3)]
    for axis, name in zip(axes, ("naive DFS", "push again", "topological"), strict=False):
        axis.set(title=f"{name}: dy/dx = {answers[name][0].grad:g}", xlim=(-0.12, 1.12), ylim=(-0.02, 1.04))
        axis.axis("off")
        for i, j in edges:
            style = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 19, "shrinkB": 19, "lw": 1.2}
            axis.annotate("", places[j], places[i], arrowprops=style)
        for (px, py), value, expected in zip(places, answers[name], right, strict=True):
            wrong = value.grad != expected
            label = f"{value.name}\ngrad {value.grad:g}" + (" ✗" if wrong else "")
            box = {
                "boxstyle": "round,pad=0.4",
                "fc": "white",
                "ec": ORANGE if wrong else BLUE,
                "lw": 2.2 if wrong else 1.4,
            }
            axis.text(px, py, label, ha="center", va="center", fontsize=9, color=INK, bbox=box)
    last = axes[-1]
    last.plot(counts, visits["path by path"], "o-", color=ORANGE, label="path by path (right, 2ⁿ)")
    last.plot(counts, visits["topological"], "s-", color=BLUE, label="topological (right, n)")
    last.set(title="Visits for n diamonds in a row", xlabel="n", yscale="log", xticks=counts)
    last.legend(loc="upper left")


if __name__ == "__main__":
    main()
