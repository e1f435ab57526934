"""Nothing reports home: the switches are set before any runtime is imported, here and in kits."""

import os
import re
import subprocess
import sys

import pytest
from places import ROOT

from kfdeploy import quiet

LINES = "; import os, sys; print([os.environ.get(name) for name in %r], sys.modules.get('openvino_telemetry', 0))"


def python(code, **more):
    left = {name: value for name, value in os.environ.items() if name not in (*quiet.SWITCHES, "CI")}
    done = subprocess.run([sys.executable, "-c", code], env=left | more, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_sets_every_switch_but_what_the_user_set():
    names = list(quiet.SWITCHES)
    assert python(f"import kfdeploy{LINES % names}") == f"{list(quiet.SWITCHES.values())} None"
    assert python(f"import kfdeploy{LINES % names[:1]}", **{names[0]: "0"}) == "['0'] None"


def test_every_program_of_a_kit_begins_with_it():
    for name in ("run", "check", "bench"):
        first = re.findall(r"^(?:import|from) (\w+)", (ROOT / "export" / "common" / f"{name}.py").read_text(), re.M)
        assert first.index("kit") < len(first), name
        assert not {"session", "onnxruntime", "openvino"} & set(first[: first.index("kit")])
    text = (ROOT / "export" / "common" / "kit.py").read_text(encoding="utf-8")
    assert "from device import quiet" in text
    assert "ORT_DISABLE_TELEMETRY" in (ROOT / "export" / "onnxruntime" / "cpp" / "main.cpp").read_text(encoding="utf-8")


def test_onnx_runtime_keeps_no_device_id(tmp_path):
    """It writes one into the user's cache when its first session is opened; without the switch it is there."""
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = "import onnxruntime; onnxruntime.SessionOptions(); onnxruntime.get_available_providers()"
    python(f"import kfdeploy; {code}", **home)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_who_imported_onnx_runtime_first_has_it_asked(monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    asked = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: asked.append(1), raising=False)
    quiet.hush()
    assert asked
