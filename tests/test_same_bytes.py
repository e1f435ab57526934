"""What a user has stays as it is: files of 0.1.0 are read, and what is made of them has the bytes it always had."""

import json
import shutil

import hashes
import pytest
from commands import command

VERBS = (
    "verify pool",
    "verify assembly",
    "verify students/small",
    "verify artifacts/assembly-onnx-fp32",
    "plan --tasks pets élan --budget-ms 10",
    "pool show pool",
    "pool check pool",
    "diff assembly assembly",
    "report benchmark.json --inspect inspect.json",
    "predict data/test/cat --model artifacts/assembly-onnx-fp32",
    "calibrate pool",
    "export students/small --target onnx",
)


@pytest.fixture
def record(here):
    """A copy of what 0.1.0 wrote, as the working directory."""
    shutil.copytree(hashes.RECORD, here, dirs_exist_ok=True)
    return here


@pytest.mark.parametrize("line", VERBS)
def test_files_of_0_1_0_are_read(record, line):
    command(line)


def test_what_is_made_of_them_has_the_bytes_on_record(tmp_path, monkeypatch):
    monkeypatch.setenv("KFDEPLOY_STATE", str(tmp_path / "state"))  # `made` sets it: this puts it back
    known = json.loads(hashes.HASHES.read_text(encoding="utf-8"))
    odd, held = hashes.differences(hashes.made(tmp_path), known)
    assert not odd
    if held < len(known["files"]):
        pytest.skip(f"{len(known['files']) - held} files are of other versions of onnx, OpenVINO or MNN")
