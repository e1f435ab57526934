"""No library beside us reports home: the one place that switches their telemetry off, before any of them is imported.

`kfdeploy/__init__.py` imports this first, and so does every program of a device kit, into which this file is copied as
it is. Whoever sets one of the variables himself is left alone.
"""

import os
import sys

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime from 1.29 keeps a device id in the user's cache, and sends events
    "HF_HUB_DISABLE_TELEMETRY": "1",  # the hub's library, which timm brings
}


def hush() -> None:
    """Switch off what can be: by variables, which children inherit, and by taking OpenVINO's reporting package away."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    # No variable reaches openvino_telemetry. Where it cannot be imported, OpenVINO and NNCF use a stub of their own.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    ask = getattr(sys.modules.get("onnxruntime"), "disable_telemetry_events", None)
    if ask is not None:  # imported before us: what is left is to ask it
        ask()


hush()
