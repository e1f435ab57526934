"""Which precision is faster here, for this network: a step of each is timed before the first.

bf16 instructions alone do not tell: on one processor they speed a frozen teacher up by half and slow the trained
network down, on another fp32 is faster for both.
"""

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from kfdeploy.training.loop.devices import has_bf16, is_bf16, set_bf16
from kfdeploy.training.loop.learner import Learner, Taught
from kfdeploy.training.loop.loader import Batch
from kfdeploy.training.loop.processes import rank, total, world
from kfdeploy.training.loop.replay import Autocast, Live

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ROUNDS = 2  # in each of two blocks, after one to warm up


def choose(fabric: "Fabric", learner: Learner, batch: Batch, teach: Any) -> str:
    """Set the faster precision for a network that is trained, and for its teacher apart; return what was measured.

    The learner is left as it is: a copy takes the steps. Several processes do what the first one measures.
    """
    taught: Taught | None = None if teach is None else teach(batch)
    told = []
    if isinstance(teach, Live):

        def ask(autocast: Autocast) -> None:
            teach.autocast = autocast
            teach.ask(batch.images)

        times = _medians({name: partial(ask, autocast) for name, autocast in _both(fabric)})
        teach.autocast = dict(_both(fabric))[_faster(times)]
        told.append(f"{_faster(times)} for the teacher ({_told(times, len(batch.labels))})")
    trial = copy.deepcopy(learner).train()

    def step(on: bool) -> None:
        set_bf16(fabric, on)
        trial.zero_grad(set_to_none=True)
        with fabric.autocast():
            terms = trial(batch.images, batch.labels, taught, 0)
        torch.stack([term.weight * term.value for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]

    with torch.random.fork_rng(devices=[]):
        times = _medians({"bf16": partial(step, True), "fp32": partial(step, False)})
    set_bf16(fabric, _faster(times) == "bf16")
    told.append(f"{_faster(times)} for the network that is trained ({_told(times, len(batch.labels))})")
    return "precision: " + ", ".join(told)


def precisions(fabric: "Fabric", teach: Any) -> dict[str, bool]:
    """Return whether bf16 is used, for a checkpoint: for the learner, and for a teacher that is asked."""
    return {
        "learner": is_bf16(fabric),
        "teacher": isinstance(teach, Live) and not isinstance(teach.autocast(), nullcontext),
    }


def restore(fabric: "Fabric", teach: Any, chosen: dict[str, bool]) -> None:
    """Set what `precisions` gave: a run goes on as it began, whatever would be faster now."""
    set_bf16(fabric, chosen["learner"])
    if isinstance(teach, Live):
        teach.autocast = dict(_both(fabric))["bf16" if chosen["teacher"] else "fp32"]


def as_set(fabric: "Fabric") -> Autocast:
    """Return the precision that a teacher is asked in, until a trial finds another: bfloat16 where it is to be had."""
    return dict(_both(fabric))["bf16" if has_bf16(fabric) else "fp32"]


def _both(fabric: "Fabric") -> tuple[tuple[str, Autocast], ...]:
    kind = fabric.device.type
    return ("bf16", lambda: torch.autocast(kind, torch.bfloat16)), ("fp32", nullcontext)


def _medians(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each way, timed in blocks that take turns: a machine that slows down slows both.

    The first step of a block does not count: memory and caches are still the other's.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name in (*ways, *reversed(ways)):
        for number in range(ROUNDS + 1):
            began = time.perf_counter()
            ways[name]()
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in times.items()}


def _faster(times: dict[str, float]) -> str:
    """Return the faster one, as the first process measured it; between equals fp32, which is the plainer."""
    bf16 = times["bf16"] < 0.97 * times["fp32"]
    if world() > 1:
        bf16 = bool(total(torch.tensor(float(bf16 and rank() == 0))) > 0)
    return "bf16" if bf16 else "fp32"


def _told(times: dict[str, float], images: int) -> str:
    return ", ".join(f"{name} {1e3 * seconds / images:.2f}" for name, seconds in times.items()) + " ms an image"
