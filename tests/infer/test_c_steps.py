"""Every kind of step as C against the textbook of the steps: values, memory, NaN, what the sanitizers say."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from minires.infer.c.order import prepare
from minires.kernels import reference
from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, Pool2dGeometry, span
from minires.kernels.graph import KINDS
from minires.kernels.steps import compute_graph
from tests.infer.c_programs import FAST, as_dtype, needs_cc, run_graphs, sanitized
from tests.infer.nets import images
from tests.infer.test_rewrite import Draft
from tests.tolerances import assert_close

pytestmark = needs_cc
C, H, W = 3, 5, 4
# Shrinking a failure would compile for minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
PROGRAMS = max(1, settings.default.max_examples // 12)  # that hypothesis draws: each is compiled

INPUT = 300_000  # numbers: more than any test's networks read


class Branches:
    """Many small networks in one graph, and so in one C file: each reads its part of a flat input, and its output is a part
    of a flat output. As many are alive at once, the memory plan has something to plan."""

    def __init__(self) -> None:
        self.draft = Draft()
        self.draft.shapes[0] = (1, INPUT)
        self.used = 0
        self.flat: list[int] = []

    def input(self, *shape):
        """A value of shape (1, *shape)."""
        start, self.used = self.used, self.used + int(np.prod(shape))
        part = self.draft.add("slice", 0, index=((start, self.used, 1),))
        return part if len(shape) == 1 else self.draft.add("reshape", part, shape=shape)

    def output(self, value):
        flat = self.draft.shapes[value] if len(self.draft.shapes[value]) == 2 else None
        self.flat.append(value if flat else self.draft.add("reshape", value, shape=(self.size(value),)))

    def size(self, value):
        return int(np.prod(self.draft.shapes[value]))

    def one(self, kind, *shape, **attributes):
        """A step of one input, which it may write over; and once more where the input is read again behind it."""
        for read_again in (False, True):
            x = self.draft.add("clamp", self.input(*(shape or (C, H, W))), low=-1.0, high=1.5)
            self.output(self.draft.add(kind, x, **attributes))
            if read_again:
                self.output(x)

    def graph(self, dtype="float64"):
        return as_dtype(self.draft.graph(self.draft.add("concat", *self.flat, axis=1)), dtype)


def check(networks, flags, dtype="float32", x=None, compiler=None):
    """C gives what the textbook gives, also where memory held NaN before. Each network is compared by itself: large numbers of
    one would hide mistakes in others."""
    if isinstance(networks, Branches):
        graph, sizes = networks.graph(dtype), [networks.size(value) for value in networks.flat]
    else:
        graph = as_dtype(networks, dtype)
        sizes = [int(np.prod(graph.shapes[graph.output]))]
    x = images(*graph.shapes[0], dtype=dtype) if x is None else x
    with TemporaryDirectory() as folder:
        (y,) = run_graphs(Path(folder), [graph], [x], flags, compiler)
    with np.errstate(all="ignore"):
        expected = compute_graph(reference, graph, x)
    assert y.shape == expected.shape
    ends = np.cumsum(sizes)
    for i, (end, size) in enumerate(zip(ends, sizes, strict=True)):
        mine, theirs = (flat.reshape(-1)[end - size : end] for flat in (y, expected))
        assert_close(mine, theirs, dtype, n=256, what=f"network {i}")


# ---------------------------------------------------------------------------------------------- every kind


def chain(b, relu):
    """Residual additions, norms, a gate, a concatenation."""
    d = b.draft
    x = d.conv(b.input(C, H, W), c_out=20, bias=True, relu=relu)
    y = d.conv(x, x, c_out=20, relu=relu)
    z = d.join(d.norm(y, relu), x, relu)
    gate = d.add("sigmoid", d.add("adaptive_avg_pool2d", z, geometry=AdaptivePool2dGeometry(1, 20, H, W, 1, 1)))
    z = d.add("multiply", d.add("multiply", z, gate), z)
    z = d.add("concat", z, y, z, axis=1)
    z = d.add("reshape", d.conv(z, k=1, bias=True), shape=(C * H * W,))
    b.output(d.linear(d.norm(d.linear(z, 37), relu), 3))


def all_kinds():
    """Each kind of the table, and what the order in memory makes different."""
    b = Branches()
    d, shape = b.draft, (1, C, H, W)
    for relu in (False, True):
        chain(b, relu)
        for sizes in ((C,), (C, 7), (C, 2, 3, 2), (C, H, W)):
            b.output(d.norm(d.relu(b.input(*sizes)), relu))
    for kind in ("relu", "sigmoid"):
        b.one(kind)
    for low, high in ((-0.5, 0.25), (-np.inf, np.inf), (1.0, -1.0)):
        b.one("clamp", low=low, high=high)
    window = (2, 3, 2, 1, 1, 1)
    for g in (
        Pool2dGeometry(*shape, *window),
        Pool2dGeometry(*shape, *window, ceil_mode=True),
        Pool2dGeometry(*shape, 3, 3, 2, 2, 1, 1, ceil_mode=True, count_include_pad=False),
    ):
        b.one("max_pool2d", geometry=g)
        b.one("avg_pool2d", geometry=g)
    b.one("avg_pool2d", geometry=Pool2dGeometry(*shape, *window, divisor_override=-7))
    for h, w in ((2, 3), (1, 1), (7, 9), (5, 4)):
        for kind in ("max_pool2d", "adaptive_avg_pool2d"):
            b.one(kind, geometry=AdaptivePool2dGeometry(*shape, h, w))
    for sizes in ((11,), (6, 7), (C, H, W), (2, 3, 4, 2)):
        for axis in range(1, len(sizes) + 1):
            b.one("softmax", *sizes, axis=axis)
    for sizes in ((W, H * C), (H, W, C), (C, W, H), (1, H, W * C), (C * H * W, 1, 1), (H, C, 2, 2)):
        b.one("reshape", shape=sizes)
        b.output(d.relu(d.add("reshape", d.relu(b.input(*sizes)), shape=(C, H, W))))
    b.one("slice", index=((0, 3, 2), (1, 5, 3), (2, 4, 1)))
    b.one("slice", index=((1, 2, 1), (0, 5, 1), (0, 4, 1)))
    b.one("slice", 9, index=((2, 9, 3),))
    b.one("pad", amounts=((1, 0), (0, 2), (3, 1)), value=-1.5)
    b.one("pad", 4, 5, amounts=((1, 2), (0, 3)), value=1e9)
    for axis in (1, 2, 3):
        x = b.input(C, H, W)
        b.output(d.add("concat", d.relu(x), x, d.add("sigmoid", x), axis=axis))
    x = b.input(C, 7)
    b.output(d.add("multiply", d.relu(x), d.add("sigmoid", x)))
    return b


def test_every_kind_is_among_the_steps():
    assert {step.kind for step in all_kinds().graph().steps} == set(KINDS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kind_under_sanitizers(dtype):
    check(all_kinds(), sanitized(), dtype)


VECTORS = {"fast": FAST, "SSE": ["-O2"], "one number at a time": ["-O1", "-DMINIRES_NO_VECTORS"]}


@pytest.mark.parametrize("flags", VECTORS.values(), ids=VECTORS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_convolutions_in_vectors_of_each_width(flags, dtype):
    check(convolutions(), flags, dtype)


def test_every_kind_at_the_usual_optimization():
    """GCC 12 drops calls here (and not at -O3) where a kernel's pointers are `restrict`."""
    check(all_kinds(), ["-O2"])


def test_images_in_and_out():
    """The input and the output may be images: channels first outside."""
    d = Draft()
    d.shapes[0] = (1, C, H, W)
    check(d.graph(d.conv(0, c_out=7)), ["-O1"])


def test_a_last_tile_reads_nothing_behind_the_image():
    """The image lies at the end of the memory, behind the output; two tiles of six pixels have room for twelve of its seven."""
    d = Draft()
    d.shapes[0] = (1, 5, 1, 7)
    check(d.graph(d.conv(0, c_out=40, k=1)), sanitized())


def test_a_reshape_costs_nothing_where_the_order_stays():
    """Behind a global mean, between images of one channel or pixel, and where only height and width change."""
    for before, after, kind in (
        ((C, 1, 1), (C,), "reshape"),
        ((1, H, W), (H * W,), "reshape"),
        ((C, H, W), (C, W, H), "reshape"),
        ((C, H, W), (C * H * W,), "reorder"),
        ((C, H, W), (H, C, W), "reorder"),
    ):
        d = Draft()
        d.shapes[0] = (1, *before)
        assert [step.kind for step in prepare(d.graph(d.add("reshape", 0, shape=after))).graph.steps] == [kind]


def test_no_steps():
    d = Draft()
    d.shapes[0] = (1, C, H, W)
    check(d.graph(0), ["-O1"])


@pytest.mark.parametrize("compiler", ["clang", "tcc"])
def test_other_compilers(compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    check(all_kinds(), ["-O2"], compiler=shutil.which(compiler))


# ---------------------------------------------------------------------------------------------- geometry


def convolution(b, g, bias=True, shortcut=False, relu=False):
    d = b.draft
    x = b.input(g.c_in, g.h, g.w)
    constants = {"weight": d.rng.standard_normal(g.weight_shape)}
    if bias:
        constants["bias"] = d.rng.standard_normal(g.c_out)
    inputs = [x, b.input(g.c_out, g.h_out, g.w_out)] if shortcut else [x]
    b.output(d.add("conv2d", *inputs, constants=constants, geometry=g, relu=relu))


def convolutions():
    """Widths below, at and above a block of lanes; groups; depthwise; a tile that is full, one that is not; one pixel."""
    b = Branches()
    for case in (
        (Conv2dGeometry(1, 3, 9, 8, 16, 3, 3, pad_top=1, pad_bottom=1, pad_left=1, pad_right=1), True, True, True),
        (Conv2dGeometry(1, 5, 6, 6, 33, 1, 1), True, False, False),
        (Conv2dGeometry(1, 8, 7, 7, 8, 1, 1, 2, 2), False, True, True),
        (Conv2dGeometry(1, 6, 5, 5, 12, 3, 2, 2, 1, 2, 0, 1, 3, 2, 2, groups=3), True, True, False),
        (Conv2dGeometry(1, 20, 5, 5, 20, 3, 3, 1, 1, 1, 1, 1, 1, groups=20), True, True, True),
        (Conv2dGeometry(1, 4, 6, 5, 8, 3, 3, 1, 2, 0, 0, 2, 2, 1, 2, groups=4), False, False, True),
        (Conv2dGeometry(1, 17, 1, 1, 5, 1, 1), True, True, True),
        (Conv2dGeometry(1, 1, 9, 9, 1, 7, 7, 2, 2, 3, 3, 3, 3), False, False, False),
    ):
        convolution(b, *case)
    return b


BOOL = st.booleans()


@st.composite
def drawn_convolutions(draw):
    tap, step, pad = st.integers(1, 4), st.integers(1, 3), st.integers(0, 3)
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    c_in = groups * draw(st.sampled_from([1, 2, 3, 9]))
    c_out = c_in if groups > 1 and draw(BOOL) else groups * draw(st.sampled_from([1, 4, 8, 9, 16, 17]))
    k_h, k_w, dilation_h, dilation_w, pads = draw(tap), draw(tap), draw(step), draw(step), [draw(pad) for _ in range(4)]
    # The window fits into the padded image, with up to six rows and columns to spare.
    h = max(1, span(k_h, dilation_h) - pads[0] - pads[1]) + draw(st.integers(0, 6))
    w = max(1, span(k_w, dilation_w) - pads[2] - pads[3]) + draw(st.integers(0, 6))
    g = Conv2dGeometry(1, c_in, h, w, c_out, k_h, k_w, draw(step), draw(step), *pads, dilation_h, dilation_w, groups)
    return g, draw(BOOL), draw(BOOL), draw(BOOL)


@settings(max_examples=PROGRAMS, phases=PHASES)
@given(st.lists(drawn_convolutions(), min_size=16, max_size=16), st.sampled_from(["float32", "float64"]))
def test_convolutions_of_any_geometry(cases, dtype):
    b = Branches()
    for case in cases:
        convolution(b, *case)
    check(b, sanitized(), dtype)


@st.composite
def drawn_pools(draw):
    tap, step = st.integers(1, 4), st.integers(1, 3)
    c, k_h, k_w = draw(st.integers(1, 5)), draw(tap), draw(tap)
    pads = draw(st.integers(0, k_h // 2)), draw(st.integers(0, k_w // 2))
    kind = draw(st.sampled_from(["max_pool2d", "avg_pool2d"]))
    # As large as the window, so that every window meets the image.
    dilation = (draw(step), draw(step)) if kind == "max_pool2d" else (1, 1)
    h, w = (span(k, d) + draw(st.integers(0, 6)) for k, d in zip((k_h, k_w), dilation, strict=True))
    more = draw(BOOL), draw(BOOL), draw(st.sampled_from([0, 0, 5]))
    return kind, Pool2dGeometry(1, c, h, w, k_h, k_w, draw(step), draw(step), *pads, *dilation, *more)


@settings(max_examples=PROGRAMS, phases=PHASES)
@given(st.lists(drawn_pools(), min_size=16, max_size=16))
def test_pools_of_any_geometry(cases):
    b = Branches()
    for kind, g in cases:
        b.one(kind, g.c, g.h, g.w, geometry=g)
    check(b, sanitized())


# ---------------------------------------------------------------------------------------------- special values


SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 1.0]


@pytest.mark.parametrize("flags", [["-O1"], FAST], ids=["plain", "fast"])
def test_nan_and_infinities_pass_as_in_the_kernels(flags):
    b = Branches()
    d = b.draft
    shape = (1, C, H, W)
    pool = Pool2dGeometry(*shape, 3, 2, 2, 1, 1, 1)
    regions = AdaptivePool2dGeometry(*shape, 2, 2)
    for kind, attributes in (
        ("relu", {}),
        ("sigmoid", {}),
        ("clamp", {"low": -0.5, "high": 0.25}),
        ("softmax", {"axis": 1}),
        ("max_pool2d", {"geometry": pool}),
        ("max_pool2d", {"geometry": regions}),
        ("avg_pool2d", {"geometry": pool}),
        ("adaptive_avg_pool2d", {"geometry": regions}),
    ):
        b.output(d.add(kind, b.input(C, H, W), **attributes))
    x = b.input(C, H, W)
    b.output(d.norm(d.join(x, x, relu=True), relu=True))
    convolution(b, Conv2dGeometry(*shape, 4, 1, 1), relu=True)
    x = images(1, INPUT, dtype="float32")
    x[0, ::11] = np.resize(np.float32(SPECIAL), len(x[0, ::11]))
    check(b, flags, x=x)


def test_max_pool_of_minus_infinity_is_minus_infinity():
    b = Branches()
    b.one("max_pool2d", geometry=Pool2dGeometry(1, C, H, W, 2, 2, 2, 2))
    check(b, ["-O1"], x=np.full((1, INPUT), -np.inf, "float32"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constants_of_any_value_arrive_exactly(dtype):
    """Whole numbers, tiny and huge ones, infinities, any bits, weights as they are in networks; NaN as some NaN."""
    kinds = np.finfo(dtype)
    special = [0.0, -0.0, 1.0, -3.0, 123456789.0, 1e30, 0.1, kinds.max, kinds.tiny, kinds.smallest_subnormal]
    drawn = np.random.default_rng(0).integers(0, 2**32, 1000, np.uint32).view(dtype)
    shift = np.concatenate(
        [np.array([*special, np.inf, -np.inf, np.nan], dtype), drawn, images(1, 5000, dtype=dtype)[0]]
    )
    d = Draft()
    d.shapes[0] = (1, len(shift))
    constants = {"scale": np.ones(len(shift)), "shift": np.zeros(len(shift))}
    graph = as_dtype(d.graph(d.add("scale_shift", 0, constants=constants, relu=False)), dtype)
    graph.steps[0].constants["shift"][...] = shift
    with TemporaryDirectory() as folder:
        (y,) = run_graphs(Path(folder), [graph], [np.full((1, len(shift)), -0.0, dtype)], ["-O1"])
    numbers = ~np.isnan(shift)
    np.testing.assert_array_equal(np.isnan(y[0]), ~numbers)
    np.testing.assert_array_equal(y[0][numbers].view(np.uint8), shift[numbers].view(np.uint8))
