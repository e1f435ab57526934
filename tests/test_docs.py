"""What docs/ shows as commands works, in order; the examples for devices do what they say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.update.diff import write_update
from kfdeploy.deploy.update.keys import keygen, sign
from kfdeploy.files import sha256

DEVICE = ROOT / "docs" / "device"
MENDER, TIMER = DEVICE / "mender" / "kfdeploy", DEVICE / "systemd" / "kfdeploy-update"


@pytest.fixture
def shell(tmp_path):
    """Run lines of shell in a folder, where `kfdeploy` is this one."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "kfdeploy"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kfdeploy "$@"\n')
    program.chmod(0o755)
    env = {key: value for key, value in os.environ.items() if not key.startswith("KFDEPLOY_")}
    env |= {
        "PATH": f"{program.parent}:{env['PATH']}", "PYTHONPATH": f"{ROOT}:{env.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1",
        "KFDEPLOY_STATE": str(tmp_path / "nobody"), "KFDEPLOY_CONF": str(tmp_path / "kfdeploy.conf"), "HOME": str(tmp_path),
    }  # fmt: skip

    def run(*words):
        return subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=tmp_path, env=env)

    return run


def test_the_page_about_updates_runs(shell, toy, tmp_path):
    """Its digits are the toy's tasks; what it says is refused is, and nothing else."""
    text = (ROOT / "docs" / "updates.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 8
    (tmp_path / "pool").symlink_to(toy.pool)
    script = "\n".join(blocks).replace("three", "pets").replace("seven", "élan")
    (tmp_path / "page.sh").write_text("umask 022\nset -e\n" + script, encoding="utf-8")
    done = shell("sh", "page.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("refused\n") == script.count("|| echo refused") == done.stderr.count("error: ")
    told = re.findall("error: (.*)", done.stderr)
    for message, line in zip(
        (
            "is not signed",
            "is an older update: its counter is 7",
            "which was replaced by",
            "is empty: this device takes",
        ),
        told,
        strict=True,
    ):
        assert message in line
    assert "is replaced by" in done.stdout
    assert sha256(tmp_path / "device" / "assembly" / "model.onnx") == sha256(
        tmp_path / "new" / "assembly" / "model.onnx"
    )


@pytest.mark.parametrize("script", [MENDER, TIMER], ids=["mender", "timer"])
def test_scripts_for_devices_are_plain_shell(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)
    if tool := shutil.which("shellcheck"):
        done = subprocess.run([tool, script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.fixture
def device(toy, tmp_path):
    """A device with a key, a signed update for it, and the two places in a file."""
    old = assemble(toy.pool, ["pets"], tmp_path / "device" / "assembly").path
    new = assemble(toy.pool, ["pets", "élan"], tmp_path / "new" / "assembly").path
    key, public = keygen(tmp_path / "update")
    (tmp_path / "state" / "keys").mkdir(parents=True)
    shutil.copy(public, tmp_path / "state" / "keys")
    write_update(old, new, tmp_path / "update.kfu")
    sign(tmp_path / "update.kfu", key)
    (tmp_path / "kfdeploy.conf").write_text(f"ASSEMBLY='{old}'\nSTATE='{tmp_path / 'state'}'\n")
    return tmp_path


def layout(root, *files):
    """What the Mender client gives a module: its folder, with the files of the artifact."""
    place = root / "payload"
    shutil.rmtree(place, ignore_errors=True)
    for name in ("files", "header", "tmp"):
        (place / name).mkdir(parents=True)
    for name in ("current_artifact_name", "current_device_type", "version"):
        (place / name).write_text("3\n")
    for path in files:
        shutil.copy(path, place / "files")
    return place


def test_menders_states(shell, device):
    model, wanted = device / "device" / "assembly" / "model.onnx", device / "new" / "assembly" / "model.onnx"
    before, place = sha256(model), layout(device, device / "update.kfu")
    assert shell(MENDER, "NeedsArtifactReboot", place).stdout == "No\n"
    assert shell(MENDER, "SupportsRollback", place).stdout == "Yes\n"

    def state(name, code=0):
        done = shell(MENDER, name, place)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    for name in ("ArtifactInstall", "ArtifactCommit", "Cleanup"):
        state(name)
    assert sha256(model) == sha256(wanted)
    state("ArtifactRollback")
    assert sha256(model) == before
    state("ArtifactRollback")  # asked twice, as after a power cut
    assert sha256(model) == before
    # Applied already: a rollback of this deployment takes nothing back.
    state("ArtifactInstall")
    place = layout(device, device / "update.kfu")
    state("ArtifactInstall")
    state("ArtifactRollback")
    assert sha256(model) == sha256(wanted)
    # Refused: the state fails, and Mender rolls back.
    damaged = device / "damaged.kfu"
    damaged.write_bytes((device / "update.kfu").read_bytes()[:-1])
    place = layout(device, damaged)
    assert "was cut short" in state("ArtifactInstall", 1)
    for name in ("ArtifactRollback", "ArtifactFailure", "Cleanup"):
        state(name)
    assert sha256(model) == sha256(wanted)
    for files in ((), (device / "update.kfu", damaged)):
        place = layout(device, *files)
        assert "carries one file" in state("ArtifactInstall", 1)
    (device / "kfdeploy.conf").write_text(f"ASSEMBLY='{model.parent}'\n")
    place = layout(device, device / "update.kfu")
    assert "is not in" in state("ArtifactInstall", 2)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_timer_takes_what_the_server_has(shell, device):
    """A folder in the server's place; the statement comes first, as the update may be signed by the new key."""
    from kfdeploy.deploy.update.rotation import rotate

    model, wanted = device / "device" / "assembly" / "model.onnx", device / "new" / "assembly" / "model.onnx"
    server = device / "server"
    server.mkdir()
    with (device / "kfdeploy.conf").open("a") as conf:
        conf.write(f"URL='file://{server}'\n")
    before = sha256(model)
    assert shell(TIMER).returncode == 0  # there is nothing yet
    assert sha256(model) == before
    key, public = keygen(device / "next")
    rotate(public, device / "update.key", server / "rotation.json")
    shutil.copy(device / "update.kfu", server)
    sign(server / "update.kfu", key)
    for _ in range(2):
        done = shell(TIMER)
        assert done.returncode == 0, done.stdout + done.stderr
        assert sha256(model) == sha256(wanted)
    sign(server / "update.kfu", device / "update.key")
    assert shell(TIMER).returncode == 1
    assert sha256(model) == sha256(wanted)


def test_units_are_whole():
    units = [path.read_text(encoding="utf-8") for path in sorted(DEVICE.glob("systemd/*.*"))]
    assert len(units) == 2
    service, timer = units
    assert "ExecStart=/usr/local/libexec/kfdeploy-update\n" in service
    assert {"User=kfdeploy", "NoNewPrivileges=yes", "ProtectSystem=strict"} <= set(service.splitlines())
    assert "WantedBy=timers.target" in timer
    assert all(re.fullmatch(r"(#.*|\[\w+\]|\w+=.*|)", line) for unit in units for line in unit.splitlines())
    assert Path(TIMER).is_file()
