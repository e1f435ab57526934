"""No socket is opened but those that the command line asks for, by us or by any library, here or in a device's kit.

Calls to the system are traced, so that native code is seen too, and without the variables by which CI switches the
reports of some libraries off. Everything is made from the record of 0.1.0; nothing is trained.
"""

import os
import shutil
import sys

import pytest
from hashes import RECORD
from servers import Web
from traced import can_strace, sockets

DRIVER = """
import os, shutil, sys
from kfdeploy.cli import main
for line in open(sys.argv[1], encoding="utf-8"):
    words = line.split()
    if words[0] == "copy":
        os.makedirs(os.path.dirname(words[2]), exist_ok=True)
        shutil.copyfile(words[1], words[2])
        continue
    sys.argv = ["kfdeploy", *(word.replace("@", " ") for word in words)]
    try:
        main()
    except SystemExit as leave:
        if leave.code:
            sys.exit(f"{line}: {leave.code}")
"""
LINES = """\
assemble --tasks sea@horse pets --out bank
plan --all --out subsets.csv
export bank --target onnx openvino mnn trt --kit
export bank --precision int8
verify bank pool artifacts/bank-onnx-fp32 artifacts/bank-openvino-fp32 artifacts/bank-mnn-fp32
predict data/test/cat --model bank
predict data/test/cat --model artifacts/bank-openvino-fp32
diff assembly bank --out new.kfu
keygen key
sign update.kfu --key key.key --counter 1
copy key.pub state/keys/key.pub
apply update.kfu assembly --unsigned
pool show pool
pool push pool pushed
report benchmark.json --markdown report.md
doctor
"""
BENCHMARK = (
    "benchmark artifacts/bank-onnx-fp32 artifacts/bank-openvino-fp32 --quick --scenario single-stream --json new.json\n"
)
# What a library may do that leaves no machine: pairs of sockets by which processes of one parent talk.
ALLOWED = ("socketpair(AF_UNIX",)


def strange(calls):
    return [call for call in calls if not any(known in call for known in ALLOWED)]


@pytest.fixture(scope="module", params=["strace", "shim"])
def way(request):
    """How is traced; the shim alone where strace is not there, and strace alone where it is."""
    if request.param != ("strace" if can_strace() else "shim"):
        pytest.skip(
            f"the other way is taken here: strace {'may' if can_strace() else 'is not there, or may not'} trace"
        )
    return request.param


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced") / "work"
    shutil.copytree(RECORD, folder)
    (folder / "driver.py").write_text(DRIVER, encoding="utf-8")
    return folder


@pytest.fixture
def run(place, tmp_path, way):
    left = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if name not in left and not name.startswith("PYTEST")}
    home = tmp_path / "home"
    env |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "MPLCONFIGDIR": str(tmp_path / "mpl")}

    def traced(text, *, kit=None):
        if kit is not None:
            command, cwd = [sys.executable, *text.split()], place / "artifacts" / kit
        else:
            (place / "lines").write_text(text, encoding="utf-8")
            command, cwd = [sys.executable, "driver.py", "lines"], place
        more = {} if kit is not None else {"PYTHONPATH": os.pathsep.join(sys.path)}
        calls, done = sockets(command, tmp_path, cwd=cwd, env=env | more, way=way)
        left = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
        return calls, done, [name for name in left if "state/kfdeploy" not in name]

    return traced


def test_the_trace_sees_what_is_asked_for(run, place):
    pytest.importorskip("aiohttp", reason="http needs aiohttp")
    server = Web(place / "pool")
    calls, done, _ = run(f"pool show {server.url}\n")
    server.stop()
    assert not done.returncode, done.stderr
    assert any("connect(" in call and "AF_INET" in call for call in strange(calls))


def test_no_verb_opens_a_socket_or_leaves_an_id_in_the_users_home(run):
    pytest.importorskip("openvino")
    pytest.importorskip("MNN")
    pytest.importorskip("cryptography")
    calls, done, left = run(LINES + BENCHMARK)
    assert not done.returncode, done.stderr[-2000:]
    assert not strange(calls)
    assert not left


@pytest.mark.parametrize("target", ["onnx", "openvino", "mnn"])
def test_no_program_of_a_kit_opens_a_socket_or_leaves_an_id(target, run, place):
    kit = f"bank-{target}-fp32"
    if not (place / "artifacts" / kit).is_dir():
        pytest.skip("the test above exports it, and was not run")
    images = str(place / "data" / "test" / "cat")
    for program in (f"run.py {images}", "check.py", "bench.py --quick --scenario single-stream")[
        : 3 if target == "onnx" else 2
    ]:
        calls, done, left = run(program, kit=kit)
        assert not done.returncode, done.stderr[-2000:]
        assert not strange(calls)
        assert not left
