"""The model on TensorRT.

Device memory goes through cuda-bindings, NVIDIA's own package for CUDA: the CUDA runtime is inside it, so that no
library has to be found on the device, and each of its calls returns an error code that is looked at here.
"""

import hashlib
import json
import sys

import numpy as np

VERSIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "cuda-bindings")
BUILD = "python build.py"


def refuse(what, hint):
    """Exit with what is wrong and what to type."""
    sys.exit(f"error: {what}\nhint:  {hint}")


class Session:
    """One engine with its buffers; `run` gives logits (N, C) for uint8 images (N, H, W, C).

    `smallest` and `largest` are the numbers of images that it takes at a time.
    """

    gpu = True

    def __init__(self, folder, manifest, threads, scenario):
        if threads != 1:
            refuse(f"{threads} threads were asked for, and a GPU has none to set", "leave --threads out")
        import tensorrt as trt

        self.trt = trt
        self.record = read_record(folder, manifest["options"], trt.__version__)
        self.smallest, _, self.largest = self.record["profile"]
        self.memory = Memory()
        try:
            self.runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        except TypeError:  # how the bindings say that the library returned nothing
            refuse("TensorRT does not start here", "look for the GPU with nvidia-smi")
        self.engine = self.runtime.deserialize_cuda_engine((folder / "model.engine").read_bytes())
        if self.engine is None:
            refuse("TensorRT cannot load model.engine, which fits the GPU that it was built on alone", BUILD)
        self.context = self.engine.create_execution_context()
        if self.context is None:
            refuse("TensorRT cannot start model.engine: there is too little GPU memory", "nvidia-smi")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        modes = {name: self.engine.get_tensor_mode(name) for name in names}
        self.names = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        (self.input,) = (name for name in names if modes[name] == trt.TensorIOMode.INPUT)
        self.kind = np.float32 if manifest["options"].get("input") == "float32" else np.uint8
        for name in names:
            kind, wanted = self.engine.get_tensor_dtype(name), trt.DataType.FLOAT
            if name == self.input and self.kind == np.uint8:
                wanted = trt.DataType.UINT8
            if kind != wanted:
                refuse(f"tensor '{name}' of model.engine is {kind.name}, not {wanted.name}", BUILD)
        self.image = tuple(self.engine.get_tensor_shape(self.input))[1:]  # (H, W, C)
        self.shapes = self.resize(self.largest)  # once for the most images that there can be
        self.count = self.largest
        self.addresses = {self.input: self.memory.allocate(self.bytes())}
        self.addresses |= {name: self.memory.allocate(4 * int(np.prod(shape))) for name, shape in self.shapes.items()}
        for name, address in self.addresses.items():
            if not self.context.set_tensor_address(name, address):
                refuse(f"TensorRT does not take the memory of tensor '{name}'", BUILD)

    def run(self, images):
        """Return logits (N, C)."""
        return self.outputs(images)["logits"]

    def outputs(self, images):
        """Return every output by its name, float32, for uint8 images (N, H, W, C)."""
        if images.dtype != np.uint8 or images.shape[1:] != self.image:
            refuse(
                f"the images are {images.dtype} {images.shape}, the engine takes uint8 (N, {str(self.image)[1:]}",
                "python run.py photo.png",
            )
        if not self.smallest <= len(images) <= self.largest:
            refuse(
                f"{len(images)} images were given at a time, and this engine takes {self.smallest} to {self.largest}",
                "give it fewer or more, or export it again with another profile",
            )
        if len(images) != self.count:
            self.shapes = self.resize(len(images))
            self.count = len(images)
        images = np.ascontiguousarray(images, self.kind)
        found = {name: np.empty(shape, np.float32) for name, shape in self.shapes.items()}
        self.memory.upload(images, self.addresses[self.input])
        if not self.context.execute_async_v3(int(self.memory.stream)):
            refuse("TensorRT could not run model.engine", BUILD)
        for name, array in found.items():
            self.memory.download(self.addresses[name], array)
        self.memory.wait()
        return found

    def bytes(self):
        """Return the size of the most images that there can be, as the engine takes them."""
        return self.largest * int(np.prod(self.image)) * np.dtype(self.kind).itemsize

    def resize(self, count):
        """Set the number of images and return the shapes of the outputs."""
        if not self.context.set_input_shape(self.input, (count, *self.image)):
            refuse(f"model.engine does not take {count} images", BUILD)
        return {name: tuple(self.context.get_tensor_shape(name)) for name in self.names}

    def layers(self):
        """Return what the engine's inspector says of its layers."""
        text = self.engine.create_engine_inspector().get_engine_information(self.trt.LayerInformationFormat.JSON)
        return json.loads(text)["Layers"]

    def close(self):
        """Let go of the engine, then of the memory that it used."""
        self.context = self.engine = self.runtime = None
        self.memory.close()


class Memory:
    """Memory of the GPU, and the stream in whose order everything happens."""

    def __init__(self):
        from cuda.bindings import runtime

        self.cuda, self.held = runtime, []
        self.stream = self.call(runtime.cudaStreamCreate())

    def call(self, answer):
        """Return what a CUDA function gave; exit where it gave an error."""
        error, *values = answer
        if error == self.cuda.cudaError_t.cudaErrorInsufficientDriver:
            refuse("there is no GPU driver, or it is older than cuda-bindings", 'pip install "cuda-bindings<13"')
        if error != self.cuda.cudaError_t.cudaSuccess:
            refuse(f"CUDA answers {error.name}", "nvidia-smi")
        return values[0] if values else None

    def allocate(self, size):
        """Return the address of so many bytes."""
        self.held.append(self.call(self.cuda.cudaMalloc(size)))
        return int(self.held[-1])

    def upload(self, array, address):
        """Copy an array to the GPU."""
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call(self.cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self.stream))

    def download(self, address, array):
        """Copy from the GPU into an array."""
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call(self.cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self.stream))

    def wait(self):
        """Return when everything asked for is done."""
        self.call(self.cuda.cudaStreamSynchronize(self.stream))

    def close(self):
        """Give everything back."""
        while self.held:
            self.call(self.cuda.cudaFree(self.held.pop()))
        if self.stream is not None:
            self.call(self.cuda.cudaStreamDestroy(self.stream))
        self.stream = None


def read_record(folder, options, version):
    """Return what `build.py` wrote of the engine; exit where the engine is of another model, TensorRT or setting."""
    if not (folder / "model.engine").is_file() or not (folder / "engine.json").is_file():
        refuse("there is no engine here: it is built on the device", BUILD)
    record = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    if record["model_sha256"] != hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest():
        refuse("model.engine was built from another model.onnx", BUILD)
    if record["tensorrt"] != version:
        refuse(f"model.engine was built by TensorRT {record['tensorrt']}, and this is {version}", BUILD)
    if {"input": "uint8", **record["options"]} != {"input": "uint8", **options}:
        refuse(f"model.engine was built with {record['options']}, and {options} is asked for", BUILD)
    return record
