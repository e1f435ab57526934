"""The model on OpenVINO, on the CPU."""

VERSIONS = ("openvino",)
# bf16 is OpenVINO's default where the processor has it: what is not integer in an int8 model stays float32.
ENDING = "/sink_port_0"
HINTS = {"fp32": "f32", "fp16": "f16", "int8": "f32"}


class Session:
    """One infer request; `run` gives logits (N, C) for uint8 images (N, H, W, C)."""

    def __init__(self, folder, manifest, threads, scenario):
        import openvino

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
        self.gpu = False
        self.floats = compiled.input(0).element_type == openvino.Type.f32  # exported with --input float32
        self.request = compiled.create_infer_request()
        self.names = [ours(output) for output in compiled.outputs]
        self.logits = self.names.index("logits") if "logits" in self.names else 0

    def run(self, images):
        """Return logits (N, C)."""
        # Shared outputs would be overwritten by the next call.
        return self.request.infer(self.taken(images), share_inputs=True, share_outputs=False)[self.logits]

    def outputs(self, images):
        """Return every output by its name."""
        found = self.request.infer(self.taken(images), share_inputs=True, share_outputs=False)
        return {name: found[i] for i, name in enumerate(self.names)}

    def taken(self, images):
        """Return the model's input: images as it takes them."""
        return {"image": images.astype("float32", copy=False) if self.floats else images}


def ours(output):
    """Return our name of an output, whose tensor may have several: OpenVINO calls what gives it out after that one."""
    names = output.names
    told = output.node.friendly_name
    told = told[: -len(ENDING)] if told.endswith(ENDING) else told
    plain = names & {"logits", "known"}
    return told if told in names else min(plain or names or {told})
