"""Build the engine for this device from model.onnx, once after copying, and again after an update of TensorRT.

python build.py [--verbose]

The precision is in the graph: the engine is strongly typed, and float32 is computed as float32 (no TF32). Takes from
some seconds to some minutes; timing.cache makes the next build shorter.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL, ENGINE, RECORD, CACHE = (HERE / name for name in ("model.onnx", "model.engine", "engine.json", "timing.cache"))
KNOWN = (10, 11)


def main():
    """Read the command line and the manifest, build, and say what to type next."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verbose", action="store_true", help="print what TensorRT does")
    asked = parser.parse_args()
    import tensorrt as trt

    options = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))["options"]
    digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    logger = trt.Logger(trt.Logger.INFO if asked.verbose else trt.Logger.WARNING)
    plan, profile = build(trt, logger, options)
    record = {
        "gpu": gpu_name(), "model_sha256": digest, "options": options, "profile": profile, "tensorrt": trt.__version__,
    }  # fmt: skip
    RECORD.unlink(missing_ok=True)  # an engine without its record is refused: neither half is ever taken for the other
    write(ENGINE, plan)
    write(RECORD, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
    print(f"wrote {ENGINE.name} ({ENGINE.stat().st_size:,} bytes, TensorRT {trt.__version__})\nnext: python check.py")


def build(trt, logger, options):
    """Return the serialised engine and the fewest, usual and most images at a time; exit where TensorRT cannot."""
    major = int(trt.__version__.split(".")[0])
    if major not in KNOWN:
        sys.exit(
            f"error: this is TensorRT {trt.__version__}, and this kit knows {KNOWN[0]} and {KNOWN[1]}\n"
            'hint:  pip install "tensorrt>=10,<12"'
        )
    try:
        builder = trt.Builder(logger)
    except TypeError:  # how the bindings say that the library returned nothing
        sys.exit("error: TensorRT does not start here\nhint:  look for the GPU with nvidia-smi")
    # TensorRT 11 has no other kind of network, and so no flag.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if major == 10 else 0
    network = builder.create_network(flags)
    parse(trt.OnnxParser(network, logger))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options["workspace_mb"] << 20)
    config.builder_optimization_level = options["optimization_level"]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that an engine can say what precision it runs in
    cache = attach_cache(config)
    profile = add_profile(builder, network, config, options)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        sys.exit(
            "error: TensorRT could not build an engine; its own messages are above\nhint:  python build.py --verbose"
        )
    write(CACHE, cache.serialize())
    return plan, profile


def parse(parser):
    """Read model.onnx into the network; print every error and exit where there is one."""
    if parser.parse_from_file(str(MODEL)):
        return
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        print(f"{error.node_operator()} '{error.node_name()}': {error.desc()}", file=sys.stderr)
    sys.exit(
        f"error: TensorRT does not read {MODEL.name} ({parser.num_errors} errors, above)\n"
        "hint:  update TensorRT, or export the model for ONNX Runtime: kfdeploy export --target onnx"
    )


def add_profile(builder, network, config, options):
    """Return the fewest, usual and most images at a time, having told TensorRT where that is not one number."""
    tensor = network.get_input(0)
    count, *rest = tuple(tensor.shape)
    if count != -1:
        return [count] * 3
    sizes = [options["min_batch"], options["opt_batch"], options["max_batch"]]
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, *((size, *rest) for size in sizes))
    if config.add_optimization_profile(profile) < 0:
        sys.exit(f"error: TensorRT does not take the batches {sizes}\nhint:  export the model with another profile")
    return sizes


def attach_cache(config):
    """Return the timing cache, from the last build where there was one on a device like this."""
    old = CACHE.read_bytes() if CACHE.is_file() else b""
    cache = config.create_timing_cache(old)
    if cache is None or not config.set_timing_cache(cache, False):
        print(f"{CACHE.name} is of another device, or damaged, and is made anew", file=sys.stderr)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def write(path, content):
    """Write a file beside its place and rename it: it is whole or not there."""
    beside = path.with_name(f".{path.name}.partial")
    beside.write_bytes(content)
    beside.replace(path)


def gpu_name():
    """Return what the GPU is called, or an empty string."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        return ""
    _, properties = runtime.cudaGetDeviceProperties(0)
    return properties.name.decode() if properties else ""


if __name__ == "__main__":
    import kit

    kit.begin(main)
