"""The model on ONNX Runtime."""

import sys

VERSIONS = ("onnxruntime", "onnxruntime-gpu")


class Session:
    """One session; `run` gives logits (N, C) for uint8 images (N, H, W, C)."""

    def __init__(self, folder, manifest, threads, scenario):
        import onnxruntime

        provider = manifest["options"].get("provider") or "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            sys.exit(
                f"error: this ONNX Runtime has no '{provider}' "
                f"(it has: {', '.join(onnxruntime.get_available_providers())})"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # what fails is raised
        if provider != "CPUExecutionProvider":  # never a silent fall-back to the CPU
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self.gpu = provider.startswith(("CUDA", "Tensorrt", "NvTensorRT"))  # whose energy then counts
        try:
            self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=[provider])
        except Exception as error:  # ONNX Runtime has a class of its own for each way to fail
            sys.exit(f"error: 'model.onnx' cannot run on '{provider}' alone: {str(error).splitlines()[0]}")
        self.floats = self.session.get_inputs()[0].type == "tensor(float)"  # exported with --input float32
        self.names = [output.name for output in self.session.get_outputs()]

    def run(self, images):
        """Return logits (N, C)."""
        return self.session.run(["logits"], {"image": self.taken(images)})[0]

    def outputs(self, images):
        """Return every output by its name."""
        return dict(zip(self.names, self.session.run(self.names, {"image": self.taken(images)})))

    def taken(self, images):
        """Return the images as the model takes them."""
        return images.astype("float32", copy=False) if self.floats else images
