"""ONNX Runtime as it is, to hold our own ways of running a graph to."""

import onnxruntime


def session(path, threads=1):
    """Return a session of an ONNX file on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
