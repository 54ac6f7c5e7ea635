"""What is this file? The answer for messages, from its first bytes: people load the wrong file more often than a
broken one.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["describe_file", "is_onnx"]

_CONVERT = "Load it with what wrote it, and torch.save the state_dict, or numpy.savez the arrays"


# Of ModelProto: ir_version (field 1, a small varint) comes first, and one of its other fields next.
_ONNX_NEXT = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca\xd2")


def is_onnx(head: bytes) -> bool:
    """Whether a file that begins with `head` (3 bytes are enough) looks like an ONNX model, which has no signature."""
    return len(head) > 2 and head[0] == 8 and 1 <= head[1] <= 64 and head[2] in _ONNX_NEXT


def describe_file(head: bytes, size: int, members: Sequence[str] = ()) -> str:
    """Say what a file is that is not one of minires' archives, and the way out where there is one.

    Args:
        head: its first bytes (512 are enough).
        size: its length in bytes.
        members: names inside, if it is a zip.

    Returns:
        A phrase for the end of an error message.
    """
    if size == 0:
        return "empty file (0 bytes): its writing never finished, or the disk was full"
    if any(name.endswith("data.pkl") for name in members):
        return "a file of torch.save (a zip around a pickle); minires.load reads it"
    if head.startswith(b"PK"):
        return "a zip, but not one that minires wrote (tree.json is missing)"
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return (
            f"a pickle, but not of torch.save; minires reads no others, since they are programs to be run. {_CONVERT}"
        )
    if head[257:262] == b"ustar":
        return f"a tar archive (the oldest form of torch.save, or a packed folder). {_CONVERT}"
    if head.startswith(b"\x93NUMPY"):
        return "a single NumPy array (.npy), not a checkpoint; numpy.load reads it"
    if head.startswith(b"\x1f\x8b"):
        return "gzip-compressed; gunzip it first"
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file (Keras?), not a checkpoint of minires"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "a web page or XML, not a checkpoint: the download gave an error page; fetch it again"
    if is_onnx(head):
        return "an ONNX model; minires.load_onnx reads it"
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")):
        return "an image, not a checkpoint"
    return "not a checkpoint of minires (it does not begin as a zip), or its beginning is damaged"
