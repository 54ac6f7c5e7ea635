"""Small IDX and CIFAR data sets made on the spot, and a web server on this machine that gives good and bad answers."""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import struct
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from minires.data.sources import SOURCES, File


def idx_bytes(array, code=0x08):
    """An array as IDX."""
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def tar_bytes(members):
    """A .tar.gz of {name: content}; a content of None is a folder, a content that is text a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def tiny_idx(name="fashion-mnist", counts=(20, 10), mirrors=()):
    """(a Source like `name` with few images, {file name: gzip bytes}, the four arrays)."""
    rng, source = np.random.default_rng(0), SOURCES[name]
    arrays, files, contents = [], [], {}
    for count, part in zip(counts, (source.train, source.test), strict=True):
        for array, file in zip(
            (rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10), part, strict=True
        ):
            content = idx_bytes(array)
            arrays.append(array)
            files.append(File(file.name, len(content), hashlib.sha256(content).hexdigest()))
            contents[file.name] = gzip.compress(content)
    tiny = dataclasses.replace(source, train=tuple(files[:2]), test=tuple(files[2:]), mirrors=tuple(mirrors))
    return tiny, contents, arrays


def tiny_cifar(name="cifar10", count=6, mirrors=()):
    """(a Source like `name` with `count` images a batch, {member: bytes}, labels and images of all batches in order)."""
    rng, source = np.random.default_rng(1), SOURCES[name]
    members, files, arrays = {}, [], []
    for file in source.files:
        labels = rng.integers(0, len(source.classes), count).astype(np.uint8)
        images = rng.integers(0, 256, (count, 3, 32, 32), np.uint8)
        coarse = [np.zeros((count, 1), np.uint8)] * (source.label_bytes - 1)
        content = np.concatenate([*coarse, labels[:, None], images.reshape(count, -1)], axis=1).tobytes()
        members[f"{source.inside}/{file.name}"] = content
        files.append(File(file.name, len(content), hashlib.sha256(content).hexdigest()))
        arrays.append((images, labels))
    split = len(source.train)
    tiny = dataclasses.replace(source, train=tuple(files[:split]), test=tuple(files[split:]), mirrors=tuple(mirrors))
    return tiny, members, arrays


@contextlib.contextmanager
def serve(routes):
    """A web server on 127.0.0.1. `routes`: path -> bytes, or a status code, or (bytes, announced length).

    Yields (its base url, the list of paths asked for).
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            answer = routes.get(self.path, 404)
            if isinstance(answer, int):
                self.send_error(answer)
                return
            body, length = answer if isinstance(answer, tuple) else (answer, len(answer))
            self.send_response(200)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client may give up first: that is what is tested
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
