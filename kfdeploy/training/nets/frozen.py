"""A frozen network in an ONNX file as a teacher: run by ONNX Runtime, it gives logits, and no features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kfdeploy.arrays import Images
from kfdeploy.errors import PoolError, TeacherError, first_line
from kfdeploy.graph.bounded import check_cost
from kfdeploy.graph.opened import read_onnx
from kfdeploy.reading import MOST_FILE, read_named
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.nets.classifier import Normalise

Floats = np.ndarray[Any, np.dtype[np.float32]]
_KINDS = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxNet(nn.Module):
    """image → (logits (N, C), ()), from uint8 (N, H, W, C).

    A graph that takes uint8 gets the pixels as they are, one that takes floats gets them normalised as the recipe says;
    (N, H, W, C) and (N, C, H, W) are told by the shape. Probabilities are turned into logits: their logarithm.
    """

    def __init__(self, path: Path, image: ImageSpec, output: str | Sequence[str] = "") -> None:
        """`output` names the logits; it may be left out where the graph has one output, or one called `logits`.

        Of several outputs the logits stand side by side.


        Raises:
            TeacherError: the file is missing or no network from images to a row of numbers.
        """
        super().__init__()
        import onnxruntime

        hint = "set teacher.source = 'onnx:<path>'"
        data = read_named(path, f"there is no ONNX file at '{path}'", hint, error=TeacherError, most=MOST_FILE)
        own = "export it with ONNX's own operators, its weights inside it or beside it"
        graph = read_onnx(data, str(path), error=TeacherError, hint=own, beside=path.parent)
        outside = any(tensor.external_data for tensor in graph.graph.initializer)
        try:
            given = graph.graph.input[:1]
            if given and all(side.dim_value for side in given[0].type.tensor_type.shape.dim[1:]):
                check_cost(graph, str(path))
        except PoolError as error:
            raise TeacherError(error.what, hint=hint) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch computes between two calls
        options.log_severity_level = 3
        try:
            source = path if outside else graph.SerializeToString()  # the weights beside it are found by its path
            self.session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has many errors of its own for a file that it cannot run
            raise TeacherError(f"ONNX Runtime cannot run '{path}': {first_line(error)}") from None
        self.path, self.normalise = path, Normalise(image)
        self.outputs = [self._output(output)] if isinstance(output, str) else [self._output(name) for name in output]
        self.input, self.kind, self.last, self.batch = self._input(image)
        with torch.no_grad():
            each = self._run(np.zeros((2, *image.shape), np.uint8))
        for name, found in zip(self.outputs, each, strict=True):
            if found.ndim != 2 or len(found) != 2:
                raise TeacherError(
                    f"the output '{name}' of '{path}' has the shape {found.shape} for two images, and logits have "
                    "(2, classes)",
                    allowed=[known.name for known in self.session.get_outputs()],
                    hint="set teacher.output",
                )
        self.widths = [found.shape[1] for found in each]
        self.shares = [bool((found >= 0).all() and np.abs(found.sum(1) - 1).max() < 1e-3) for found in each]

    def _output(self, name: str) -> str:
        names = [each.name for each in self.session.get_outputs()]
        if name and name not in names:
            raise TeacherError(f"'{self.path}' has no output '{name}'", allowed=names, hint="set teacher.output")
        if not name and len(names) > 1 and "logits" not in names:
            raise TeacherError(
                f"'{self.path}' has {len(names)} outputs: which are the logits?", allowed=names,
                hint=f"teacher.output = '{names[0]}'",
            )  # fmt: skip
        return name or ("logits" if "logits" in names else names[0])

    def _input(self, image: ImageSpec) -> tuple[str, Any, bool, int]:
        """Return the input's name, its numbers' kind, whether channels are last, and its batch (0: any)."""
        inputs = self.session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or inputs[0].type not in _KINDS:
            told = ", ".join(f"{each.name}: {each.type} {each.shape}" for each in inputs)
            raise TeacherError(f"'{self.path}' takes {told}, and a teacher takes one batch of images")
        height, width = image.size
        layouts = {True: (height, width, image.channels), False: (image.channels, height, width)}
        fits = [last for last, wanted in layouts.items() if _may_be(shape[1:], wanted)]
        if not fits:
            raise TeacherError(
                f"'{self.path}' takes images of the shape {shape[1:]}, and the recipe's are {height}×{width} with "
                f"{image.channels} channels",
                hint="set image.size and image.channels to the teacher's",
            )
        # Where a shape is open, floats have channels first, as torch exports them, and pixels last.
        kind = _KINDS[inputs[0].type]
        last = fits[0] if len(fits) == 1 else kind is np.uint8
        return inputs[0].name, kind, last, shape[0] if isinstance(shape[0], int) else 0

    def _run(self, pixels: Images) -> list[Floats]:
        if self.kind is np.uint8:
            given = pixels if self.last else pixels.transpose(0, 3, 1, 2)
        else:
            floats = self.normalise(torch.from_numpy(pixels)).numpy()  # (N, C, H, W)
            given = (floats.transpose(0, 2, 3, 1) if self.last else floats).astype(self.kind)
        given = np.ascontiguousarray(given)
        if self.batch in (0, len(given)):
            pieces = [given]
        else:  # a fixed batch: filled up with black images at the end
            fill = np.zeros((-len(given) % self.batch, *given.shape[1:]), given.dtype)
            whole = np.concatenate([given, fill])
            pieces = np.split(whole, len(whole) // self.batch)
        found = [self.session.run(self.outputs, {self.input: piece}) for piece in pieces]
        return [np.concatenate(parts)[: len(given)].astype(np.float32) for parts in zip(*found, strict=True)]

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits (N, C), and no features."""
        self.normalise.cpu()
        each = [
            np.log(np.maximum(found, 1e-12)) if shares else found
            for found, shares in zip(self._run(image.cpu().numpy()), self.shares, strict=True)
        ]
        return torch.from_numpy(np.concatenate(each, axis=1)).to(image.device), ()


def _may_be(shape: list[object], wanted: tuple[int, ...]) -> bool:
    return all(not isinstance(size, int) or size == value for size, value in zip(shape, wanted, strict=True))
