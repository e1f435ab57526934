"""Where training runs: Lightning Fabric on one device or several; `processes` has what several must agree on."""

import ctypes
import logging
import os
import signal
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kfdeploy.errors import DeviceError, TrainingError
from kfdeploy.training.recipe.sections import Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric


PEER_SECONDS = 45  # how long a process waits for the others before it gives up


def make_fabric(run: Run, *, unused: bool = False) -> "Fabric":
    """Return Lightning Fabric, launched, with `auto` resolved. `unused`: some parameters will have no gradient.

    Raises:
        DeviceError: cuda was asked for and is not there, there are fewer devices than asked for, or several were
            asked for outside a launcher.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    if run.device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "run.device is 'cuda', and this machine has no CUDA device that torch can use",
            allowed=("auto", "cpu"),
            hint="--device auto, or see 'kfdeploy doctor'",
        )
    device = ("cuda" if torch.cuda.is_available() else "cpu") if run.device == "auto" else run.device
    if device == "cpu":
        keep_memory()
    if run.threads:
        torch.set_num_threads(run.threads)
    if run.compile and device == "cpu" and not _compiler():
        raise DeviceError(
            "run.compile needs a C++ compiler on the CPU, and there is none", hint="install g++, or leave --compile out"
        )
    fast = torch.cuda.is_bf16_supported() if device == "cuda" else cpu_has_bf16()
    precision = ("bf16" if fast else "fp32") if run.precision == "auto" else run.precision
    setting: dict[str, Any] = {"plugins": _bf16(device)} if precision == "bf16" else {"precision": "32-true"}
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    check_devices(run, device)
    if run.devices == 1 and launched == 1:
        return Fabric(accelerator=device, devices=1, **setting)
    if run.devices not in (1, launched):
        raise DeviceError(
            f"run.devices is {run.devices}, and this process was started as one of {launched}",
            hint=f"start with 'kfdeploy factorize --devices {run.devices}', or with torchrun",
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    strategy = DDPStrategy(timeout=timedelta(seconds=PEER_SECONDS), find_unused_parameters=unused)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", launched))
    fabric = Fabric(accelerator=device, devices=local, num_nodes=launched // local, strategy=strategy, **setting)
    fabric.launch()
    return fabric


def _bf16(device: str) -> Any:
    """Return Fabric's mixed precision, but for two things.

    It would round what a module is given to bfloat16: the teacher's answers are among that, and the information terms
    need float32. And it can be switched off, where a trial finds that it does not pay.
    """
    from lightning_fabric.plugins.precision import MixedPrecision

    class Bf16(MixedPrecision):  # type: ignore[misc]
        on = True

        def convert_input(self, data: Any) -> Any:
            return data

        def forward_context(self) -> Any:
            return super().forward_context() if self.on else nullcontext()

    return Bf16("bf16-mixed", device)


def set_bf16(fabric: "Fabric", on: bool) -> None:
    """Switch bfloat16 on or off, where this Fabric has it."""
    if has_bf16(fabric):
        fabric._precision.on = on


def has_bf16(fabric: "Fabric") -> bool:
    """Return whether bfloat16 can be switched on."""
    return hasattr(fabric._precision, "on")


def is_bf16(fabric: "Fabric") -> bool:
    """Return whether networks are run in bfloat16 now."""
    return bool(getattr(fabric._precision, "on", False))


def precision_of(fabric: "Fabric") -> str:
    """Return the precision's name, for a manifest."""
    return str(fabric._precision.precision) if is_bf16(fabric) else "32-true"


def check_devices(run: Run, device: str = "") -> None:
    """Refuse more processes than there are processors for them.

    Raises:
        DeviceError: as above.
    """
    device = device or ("cuda" if run.device != "cpu" and torch.cuda.is_available() else "cpu")
    there = torch.cuda.device_count() if device == "cuda" else os.cpu_count() or 1
    if run.devices > there:
        kind = "CUDA devices" if device == "cuda" else "processor cores"
        raise DeviceError(
            f"--devices {run.devices} was asked for, and there are {there} {kind}", hint=f"--devices {there}"
        )


def launch(count: int, arguments: list[str]) -> int:
    """Start `count` processes of this command line with torch's elastic launcher; return the exit status.

    The first process that fails ends the others; its own message is on its standard error.

    Raises:
        TrainingError: a process was killed or crashed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0, monitor_interval=0.5, run_id=f"kfdeploy-{os.getpid()}",
    )  # fmt: skip
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it logs what we say below
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    try:
        elastic_launch(config, sys.executable)("-m", "kfdeploy", *arguments)
    except ChildFailedError as error:
        # One that was killed is the cause of those that then missed it; the launcher ends the rest with SIGTERM.
        blame = {number: (found.exitcode >= 0 or found.exitcode == -signal.SIGTERM, found.timestamp)
                 for number, found in error.failures.items()}  # fmt: skip
        rank = min(blame, key=lambda number: blame[number])
        failure = error.failures[rank]
        if failure.exitcode > 0:  # it has said itself why
            return int(failure.exitcode)
        raise TrainingError(
            f"process {rank + 1} of {count} was ended by signal {-failure.exitcode}; the others were stopped",
            hint="go on with --resume; where the system was short of memory, use fewer --devices",
        ) from None
    return 0


def cpu_has_bf16() -> bool:
    """Return whether the processor multiplies bfloat16 itself; where it does not, bf16 is slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def keep_memory() -> None:
    """Tell glibc to keep freed memory: a step frees and takes the same buffers, and every new page costs a fault.

    Without it a sixth of a step is spent in the kernel (benchmarks/factorize_speed.py). Elsewhere nothing happens.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 64 * 2**20)


def describe() -> str:
    """Return what torch is here, and what it can use."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_name(i) for i in range(count)]
    return (
        f"torch {torch.__version__.partition('+')[0]}; cuda: {', '.join(gpus) or 'none that torch can use'}; "
        f"bf16 on the CPU: {'yes' if cpu_has_bf16() else 'no'}"
    )


def _compiler() -> bool:
    import shutil

    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
