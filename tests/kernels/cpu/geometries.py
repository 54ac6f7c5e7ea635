"""Convolutions that hypothesis draws for the cpu set: every option, sizes small, channel blocks full and begun."""

from __future__ import annotations

from hypothesis import strategies as st

from minires.kernels.geometry import Conv2dGeometry


@st.composite
def conv_geometries(draw, max_size=9, max_channels=36):
    """A convolution whose window fits its input."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 16]))
    most = max(1, max_channels // groups)
    c_in, c_out = groups * draw(st.integers(1, most)), groups * draw(st.integers(1, most))
    sizes = {}
    for axis, before, after in (("h", "top", "bottom"), ("w", "left", "right")):
        k, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        pads = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        least = max(1, (k - 1) * dilation + 1 - sum(pads))
        sizes |= {
            axis: draw(st.integers(least, max(least, max_size))),
            f"k_{axis}": k,
            f"dilation_{axis}": dilation,
            f"stride_{axis}": draw(st.integers(1, 3)),
            f"pad_{before}": pads[0],
            f"pad_{after}": pads[1],
        }
    return Conv2dGeometry(n=draw(st.integers(1, 3)), c_in=c_in, c_out=c_out, groups=groups, **sizes)


def zoo_layers():
    """The distinct convolutions of ResNets at their own sizes, with one image and thin: (name, geometry)."""
    layers = {
        "7x7/2 stem": Conv2dGeometry(1, 3, 64, 64, 64, 7, 7, 2, 2, 3, 3, 3, 3),
        "3x3 stem": Conv2dGeometry(2, 3, 32, 32, 16, 3, 3, 1, 1, 1, 1, 1, 1),
        "3x3 grey stem": Conv2dGeometry(2, 1, 28, 28, 16, 3, 3, 1, 1, 1, 1, 1, 1),
        "3x3/2 deep stem": Conv2dGeometry(1, 3, 64, 64, 32, 3, 3, 2, 2, 1, 1, 1, 1),
        "1x1": Conv2dGeometry(1, 64, 56, 56, 256, 1, 1),
        "1x1/2": Conv2dGeometry(1, 64, 28, 28, 128, 1, 1, 2, 2),
        "3x3/2": Conv2dGeometry(1, 64, 28, 28, 128, 3, 3, 2, 2, 1, 1, 1, 1),
        "3x3/2 odd": Conv2dGeometry(1, 32, 7, 7, 64, 3, 3, 2, 2, 1, 1, 1, 1),
        "3x3 at 7": Conv2dGeometry(1, 128, 7, 7, 128, 3, 3, 1, 1, 1, 1, 1, 1),
        "3x3 resnext": Conv2dGeometry(1, 128, 14, 14, 128, 3, 3, 1, 1, 1, 1, 1, 1, groups=32),
        "3x3 dilated": Conv2dGeometry(1, 32, 14, 14, 32, 3, 3, 1, 1, 2, 2, 2, 2, 2, 2),
        "3x3 depthwise": Conv2dGeometry(1, 48, 14, 14, 48, 3, 3, 1, 1, 1, 1, 1, 1, groups=48),
        "5x5 valid": Conv2dGeometry(2, 17, 12, 11, 33, 5, 5),
    }
    return list(layers.items())


def reduction(g, which):
    """The length of the sums of one result: forward, backward_x or backward_weight."""
    if which == "backward_weight":
        return g.n * g.h_out * g.w_out
    return g.k_h * g.k_w * (g.c_in if which == "forward" else g.c_out) // g.groups
