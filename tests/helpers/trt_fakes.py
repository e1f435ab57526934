"""TensorRT and the CUDA runtime without a GPU, for tests of the device kit.

Only what the kit uses is here, with the parameters that the real bindings have; `trt_bindings.py` holds each name and
signature against two real versions. Device memory is host memory, and an engine runs its graph on ONNX Runtime.
"""

# ruff: noqa: N802 - CUDA's own names
import ctypes
import importlib.machinery
import json
import math
import types
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import onnx
import onnxruntime

ENGINE = b"engine of "
CACHE = b"timings"
LAYERS = [
    {"Name": "a", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Thirty-two wide Int8 format"}]},
    {"Name": "b", "LayerType": "kgen", "ParameterType": "Convolution", "Inputs": [{"Format/Datatype": "Half"}]},
    {"Name": "c", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
    {"Name": "d", "LayerType": "Convolution", "Inputs": [{"Format/Datatype": "Float"}]},
    "only a name",
]


@dataclass
class World:
    """What will go wrong, and what was done."""

    errors: tuple[str, ...] = ()  # what the parser says
    builds: bool = True
    loads: bool = True
    fresh_cache_only: bool = False
    profile_index: int = 0
    done: list[tuple[object, ...]] = field(default_factory=list)
    buffers: dict[int, object] = field(default_factory=dict)

    def names(self):
        return [entry[0] for entry in self.done]

    def of(self, name):
        return [entry[1:] for entry in self.done if entry[0] == name]


class Strict:
    """Attributes that the class does not name cannot be set."""

    def __setattr__(self, name, value):
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no '{name}'")
        object.__setattr__(self, name, value)


class Member(int):
    """A member of an enum."""

    def __new__(cls, value, name):
        member = super().__new__(cls, value)
        member.name = name
        return member


def enum(name, *members):
    return type(name, (), {member: Member(i, member) for i, member in enumerate(members, 1)})


def module(version, world):
    """Return a fake `tensorrt`."""
    # Long because it is a whole module, made inside a function: each test has its own.

    def note(*what):
        world.done.append(what)

    class Logger(Strict):
        INFO, WARNING = Member(3, "INFO"), Member(2, "WARNING")

        def __init__(self, min_severity=WARNING):
            note("Logger", min_severity.name)

    class ITensor(Strict):
        name = "image"
        shape = ()

    class INetworkDefinition(Strict):
        def get_input(self, index):
            tensor, value = ITensor(), self._graph.input[index]
            tensor.name = value.name
            tensor.shape = tuple(d.dim_value or -1 for d in value.type.tensor_type.shape.dim)
            return tensor

    class ParserError(Strict):
        def desc(self):
            return self._text

        def node_name(self):
            return "conv_1"

        def node_operator(self):
            return "Conv"

    class OnnxParser(Strict):
        def __init__(self, network, logger):
            self._network = network

        @property
        def num_errors(self):
            return len(world.errors)

        def parse_from_file(self, model):
            assert isinstance(model, str)
            self._network._bytes = onnx.load(model).SerializeToString()
            self._network._graph = onnx.load(model).graph
            return not world.errors

        def get_error(self, index):
            error = ParserError()
            error._text = world.errors[index]
            return error

    class IHostMemory(bytes):
        pass

    class ITimingCache(Strict):
        def serialize(self):
            return IHostMemory(CACHE)

    class IOptimizationProfile(Strict):
        def set_shape(self, input, min, opt, max):
            note("set_shape", input, min, opt, max)

    class IBuilderConfig(Strict):
        builder_optimization_level = 0
        profiling_verbosity = None

        def clear_flag(self, flag):
            note("clear_flag", flag.name)

        def set_memory_pool_limit(self, pool, pool_size):
            note("set_memory_pool_limit", pool.name, pool_size)

        def create_timing_cache(self, serialized_timing_cache):
            note("create_timing_cache", bytes(serialized_timing_cache))
            return ITimingCache()

        def set_timing_cache(self, cache, ignore_mismatch):
            note("set_timing_cache", ignore_mismatch)
            return not (world.fresh_cache_only and world.names().count("set_timing_cache") == 1)

        def add_optimization_profile(self, profile):
            note("add_optimization_profile")
            return world.profile_index

    class Builder(Strict):
        def __init__(self, logger):
            pass

        def create_network(self, flags):
            note("create_network", flags)
            return INetworkDefinition()

        def create_builder_config(self):
            return IBuilderConfig()

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            note("build", config.builder_optimization_level, config.profiling_verbosity.name)
            return IHostMemory(ENGINE + network._bytes) if world.builds else None

    class EngineInspector(Strict):
        def get_engine_information(self, format):
            assert format.name == "JSON"
            return json.dumps({"Layers": LAYERS})

    class IExecutionContext(Strict):
        def set_input_shape(self, name, shape):
            note("set_input_shape", name, shape)
            self._shape = shape
            return True

        def get_tensor_shape(self, name):
            return (self._shape[0], *self._engine.get_tensor_shape(name)[1:])

        def set_tensor_address(self, name, memory):
            assert isinstance(memory, int)
            self._addresses = {**getattr(self, "_addresses", {}), name: memory}
            return True

        def execute_async_v3(self, stream_handle):
            note("execute", stream_handle)
            runner = self._engine._runner
            kind = np.dtype(np.uint8 if "uint8" in runner.get_inputs()[0].type else np.float32)
            data = ctypes.string_at(self._addresses["image"], math.prod(self._shape) * kind.itemsize)
            images = np.frombuffer(data, kind).reshape(self._shape)
            for value, array in zip(runner.get_outputs(), runner.run(None, {"image": images}), strict=True):
                ctypes.memmove(self._addresses[value.name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
            return True

    class ICudaEngine(Strict):
        @property
        def num_io_tensors(self):
            return len(self._values())

        def _values(self):
            return {value.name: value for value in (*self._runner.get_outputs(), *self._runner.get_inputs())}

        def get_tensor_name(self, index):
            return list(self._values())[index]

        def get_tensor_mode(self, name):
            return TensorIOMode.INPUT if name == "image" else TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name):
            return DataType.UINT8 if "uint8" in self._values()[name].type else DataType.FLOAT

        def get_tensor_shape(self, name):
            return tuple(size if isinstance(size, int) else -1 for size in self._values()[name].shape)

        def create_execution_context(self):
            context = IExecutionContext()
            context._engine = self
            return context

        def create_engine_inspector(self):
            return EngineInspector()

    class Runtime(Strict):
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, serialized_engine):
            if not world.loads:
                return None
            engine = ICudaEngine()
            engine._runner = onnxruntime.InferenceSession(serialized_engine.removeprefix(ENGINE))
            return engine

    TensorIOMode, DataType = enum("TensorIOMode", "INPUT", "OUTPUT"), enum("DataType", "FLOAT", "UINT8")
    fake = types.ModuleType("tensorrt")
    fake.__version__, fake.__spec__ = version, importlib.machinery.ModuleSpec("tensorrt", None)
    classes = [member for member in locals().values() if isinstance(member, type)]
    classes += [
        enum("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        enum("BuilderFlag", "TF32"),
        enum("MemoryPoolType", "WORKSPACE"),
        enum("ProfilingVerbosity", "DETAILED"),
        enum("LayerInformationFormat", "JSON"),
    ]
    for member in classes:
        setattr(fake, member.__name__, member)
    return fake


def cuda(world):
    """Return a fake `cuda.bindings.runtime`, whose device memory is the host's."""
    runtime = types.ModuleType("cuda.bindings.runtime")
    runtime.cudaError_t = enum("cudaError_t", "cudaSuccess", "cudaErrorInsufficientDriver", "cudaErrorMemoryAllocation")
    runtime.cudaMemcpyKind = enum("cudaMemcpyKind", "cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost")
    fine, streams = runtime.cudaError_t.cudaSuccess, count(7)

    def cudaMalloc(size):
        buffer = ctypes.create_string_buffer(size)
        world.buffers[ctypes.addressof(buffer)] = buffer
        return fine, ctypes.addressof(buffer)

    def cudaFree(devPtr):
        del world.buffers[devPtr]
        return (fine,)

    def cudaMemcpyAsync(dst, src, count, kind, stream):
        world.done.append(("copy", kind.name, count, stream))
        ctypes.memmove(dst, src, count)
        return (fine,)

    def cudaStreamCreate():
        return fine, next(streams)

    def cudaStreamSynchronize(stream):
        world.done.append(("wait", stream))
        return (fine,)

    def cudaStreamDestroy(stream):
        world.done.append(("destroy", stream))
        return (fine,)

    def cudaGetDeviceCount():
        return fine, 1

    def cudaGetDeviceProperties(device):
        return fine, types.SimpleNamespace(name=b"Fake 1000")

    for name, function in list(locals().items()):
        if name.startswith("cuda"):
            setattr(runtime, name, function)
    return runtime
