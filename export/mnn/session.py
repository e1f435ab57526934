"""The model on MNN, on the CPU."""

import ctypes
import os
import sys
from contextlib import contextmanager

import numpy as np

VERSIONS = ("MNN",)
# "low" is float16 arithmetic where the processor has it, and float32 where it does not.
ARITHMETIC = {"fp32": "high", "fp16": "low", "int8": "high"}


class Session:
    """One session, resized when the batch changes; `run` gives logits (N, C) for uint8 images (N, H, W, C)."""

    gpu = False

    def __init__(self, folder, manifest, threads, scenario):
        with quiet():
            import MNN

            self.mnn = MNN
            try:
                self.net = MNN.Interpreter(str(folder / "model.mnn"))
            except Exception:
                sys.exit("error: MNN cannot read 'model.mnn'\nhint:  copy the whole folder again")
            self.session = self.net.createSession(
                {"backend": "CPU", "numThread": threads, "precision": ARITHMETIC[manifest["precision"]]}
            )
        self.image = self.net.getSessionInput(self.session, "image")
        self.shape = tuple(self.image.getShape())
        self.floats = manifest.get("options", {}).get("input") == "float32"
        self.batch = manifest.get("options", {}).get("batch", 0)

    def run(self, images):
        """Return logits (N, C)."""
        return self.outputs(images)["logits"]

    def outputs(self, images):
        """Return every output by its name."""
        if images.dtype != np.uint8:  # MNN itself would not notice
            raise ValueError(f"the input 'image' is {images.dtype} (allowed: uint8)")
        if images.shape != self.shape:
            self.resize(images.shape)
        mnn = self.mnn
        kind, form = (mnn.Halide_Type_Float, np.float32) if self.floats else (mnn.Halide_Type_Uint8, np.uint8)
        host = mnn.Tensor(self.shape, kind, np.ascontiguousarray(images, form), mnn.Tensor_DimensionType_Caffe)
        self.image.copyFrom(host)
        self.net.runSession(self.session)
        # A copy: MNN's own memory would be overwritten by the next call.
        found = self.net.getSessionOutputAll(self.session)
        return {name: np.array(tensor.getNumpyData()) for name, tensor in sorted(found.items(), reverse=True)}

    def resize(self, shape):
        """Take images of another shape from now on; only their number may change."""
        sides = self.shape[1:]
        if shape[1:] != sides or not shape[0] or self.batch not in (0, shape[0]):
            raise ValueError(f"the input 'image' has shape {shape} (allowed: {(self.batch or 'N', *sides)})")
        self.net.resizeTensor(self.image, shape)
        self.net.resizeSession(self.session)
        self.shape = shape

    def operators(self):
        """Return the type of every operator that runs, in order, having run once on what lies in the input."""
        ran = []
        self.net.runSessionWithCallBackInfo(
            self.session, lambda *_: True, lambda _, about: ran.append(about.getType()) is None
        )
        return ran

    def close(self):
        """Let go of the model."""
        self.session = self.net = self.image = None


@contextmanager
def quiet():
    """Send what MNN prints to standard output nowhere; these programs print JSON there."""
    libc = ctypes.CDLL(None if os.name == "posix" else "msvcrt")
    sys.stdout.flush()
    libc.fflush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        libc.fflush(None)  # it is buffered in a pipe, and would appear at the end
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
