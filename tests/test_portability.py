"""Where exported files run: every form in the runtimes that are installed here, as `benchmarks/portability.py` asks.

The rest of that matrix, other versions and other runtimes, is in `benchmarks/results/portability.json`.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# The reference evaluator has no operator for int8 below opset 19; the checker has been through by then.
UNKNOWN = "No implementation for operator 'DequantizeLinear'"


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = found
    spec.loader.exec_module(found)
    return found


worker = module(BENCHMARKS / "runtimes" / "worker.py")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    forms = module(BENCHMARKS / "portability_forms.py")
    return forms.make(tmp_path_factory.mktemp("forms"))


def test_every_form_is_there(files):
    assert len({file.name for file in files}) == len(files)
    assert {file.form for file in files} == {
        "one task", "bank", "branches", "bank, unequal heads", "branches, unequal heads", "bank, open set",
        "branches, open set", "several fields, bank", "several fields, branches", "student", "teacher",
    }  # fmt: skip
    for form in {file.form for file in files}:
        kinds = {(file.precision, file.batch) for file in files if file.form == form}
        assert kinds == {(precision, batch) for precision in ("fp32", "fp16", "int8") for batch in (0, 1)}


@pytest.mark.parametrize("kind", ["onnx", "onnxruntime", "openvino"])
def test_every_form_runs_right(kind, files):
    pytest.importorskip(kind)
    wrong = []
    for file in files:
        answer = worker.answer(kind, file.job())
        if "outputs" not in answer:
            if not (kind == "onnx" and file.precision == "int8" and UNKNOWN in answer["refused"]):
                wrong.append(f"{file.name}: {answer['refused']}")
            continue
        difference, equal = file.judge(answer["outputs"])
        # Random heads have near ties, which rounding turns over.
        least = 0.9 if file.form.startswith("several fields") and file.precision != "fp32" else 1
        if not (difference <= file.bound and equal >= least):
            wrong.append(f"{file.name}: differs by {difference:.1e}, {100 * equal:.0f} % of the answers are equal")
    assert not wrong, "\n".join(wrong)


def test_a_difference_and_what_is_not_finite_are_judged(files):
    file = next(file for file in files if file.form == "bank, open set" and file.precision == "fp32")
    outputs = {name: array.tolist() for name, array in file.expected.items()}
    assert file.judge(outputs) == (0.0, 1.0)
    outputs["known"][0] += 2 * max(1.0, abs(file.expected["known"]).max())
    assert file.judge(outputs)[0] == pytest.approx(2, rel=1e-3)
    outputs["known"][0] = float("nan")
    assert file.judge(outputs) == (float("inf"), 0.0)
    assert file.judge(outputs | {"logits": outputs["logits"][:-1]}) == (float("inf"), 0.0)


def test_the_line_of_an_error_that_says_what_is_wrong():
    openvino = (
        "Exception from src/core.cpp:85:\nCheck 'x' failed at y.hpp:65:\nWhile validating node 'z'\nNo channels.\n"
    )
    assert worker.reason(openvino) == "No channels."
    onnxruntime = "[E] Load failed: Model::Model(const Logger&, const Options&) Unsupported IR: 10"
    assert worker.reason(onnxruntime) == "Unsupported IR: 10"
    assert worker.reason("") == ""


def test_outputs_are_told_apart_by_their_shapes():
    import numpy as np

    job = {"outputs": {"logits": (3,), "known": ()}}
    logits, known = np.ones((2, 3)), np.zeros((2, 1))
    found = worker.by_shape([known, logits], job, 2)
    assert (found["logits"].shape, found["known"].shape) == ((2, 3), (2,))
    with pytest.raises(RuntimeError, match=r"no output has the shape \(2, 3\)"):
        worker.by_shape([known], job, 2)
