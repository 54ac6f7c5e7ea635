"""The kernel sets: whole operations on plain arrays, without autograd.

    interface/     what a set must offer, each operation with its loop nest
    geometry.py    the sizes of a convolution, a pooling, an interpolation; the one legend of size names
    reference/     plain NumPy: the textbook, and the oracle of the other sets

The folder stands at the top of the checkout and is imported as `minires.kernels`: the bare name `kernels` belongs to
another package, and one file imported under two names would be two modules with two sets of classes. Nothing heavy is
imported here.
"""

if __name__ != "minires.kernels":
    raise ImportError(
        f"kernels: this package must be imported as minires.kernels, got {__name__!r}; "
        "write `from minires.kernels import ...`"
    )
