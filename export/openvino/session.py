"""The model on OpenVINO, on the CPU."""

import sys

VERSIONS = ("openvino",)
HINTS = {"fp32": "f32", "fp16": "f16", "int8": "f32"}


class Session:
    """One infer request; `run` gives logits (N, C) for uint8 images (N, H, W, C)."""

    def __init__(self, folder, manifest, threads, scenario):
        try:
            import openvino
        except ImportError:
            sys.exit("error: OpenVINO is not installed\nhint:  pip install -r requirements.txt")
        compiled = openvino.Core().compile_model(
            folder / "model.xml",
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT" if scenario == "offline" else "LATENCY",
                "INFERENCE_PRECISION_HINT": HINTS[manifest["precision"]],
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": "1",
            },
        )
        self.request = compiled.create_infer_request()

    def run(self, images):
        """Return logits (N, C)."""
        # Shared outputs would be overwritten by the next call.
        return self.request.infer({"image": images}, share_inputs=True, share_outputs=False)[0]
