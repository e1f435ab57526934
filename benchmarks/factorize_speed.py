"""How fast factorization trains: ratios measured in one run, on synthetic images (the arithmetic does not see them).

    python benchmarks/factorize_speed.py --out benchmarks/results/speed-<machine>-<date>.json [--only bank …]

| part | what is timed: forward and backward, in alternating rounds, medians |
|---|---|
| bank | K task-specific networks as one bank against K networks one after another |
| pointwise | a bank's 1×1 convolutions as grouped convolutions, batched matrix products, or products one by one |
| outside | the share of a step outside networks and losses: data, augmentation, logging |
| precision | bf16 and channels-last against fp32 and NCHW |
| replay | a step that reads the teacher's answers against one that asks for them |
| tasks | a step of K = 2 … 100 tasks, and the line through them |
| waiting | OpenMP's default of waiting against waiting asleep, quiet and beside a busy process |
| memory | glibc told to keep freed memory against its default; the resident peak of ten tasks on CIFAR-10's size |
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from kfdeploy.data.imageset import ImageSet
from kfdeploy.files import dump_line_json
from kfdeploy.measuring.rounds import describe_machine
from kfdeploy.targets.device.watch import peak_mib
from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.training.learners.factor import FactorLearner
from kfdeploy.training.loop.devices import cpu_has_bf16, keep_memory
from kfdeploy.training.loop.fit import make_optimizer
from kfdeploy.training.loop.loader import MemoryLoader
from kfdeploy.training.loop.replay import Live, Replay
from kfdeploy.training.nets.build import build, describe
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.nets.layers import pooled
from kfdeploy.training.nets.teacher import Teacher
from kfdeploy.training.recipe.nets import ConvNet, MobileNetV2
from kfdeploy.training.recipe.recipe import load_recipe
from kfdeploy.writing import write_file

CONV = {"family": "convnet", "strides": [2, 1]}
SMALL, LARGE = ConvNet(channels=[16, 16], **CONV), ConvNet(channels=[64, 64], **CONV)
MOBILE = MobileNetV2(family="mobilenetv2", width=0.5, stem="cifar")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    keep_memory()
    torch.set_num_threads(asked.threads)
    machine = describe_machine() | {"bf16": cpu_has_bf16()}
    if asked.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    result = {"schema": 1, "kind": "speed", "machine": machine, "device": asked.device, "threads": asked.threads,
              "rounds": asked.rounds}  # fmt: skip
    for part in asked.only:
        result[part] = PARTS[part](torch.device(asked.device), asked.rounds)
        print(part, json.dumps(result[part]), flush=True)
        write_file(asked.out, dump_line_json(result))  # what is measured is kept if the next part fails
    print(f"wrote {asked.out}")


def timed(device, rounds, **ways):
    """Return the median seconds of each way, in alternating rounds after a warm-up."""
    times = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def bank(device, rounds):
    """Plain convolutions on a CKN's second stage (32 channels, 16×16) and MobileNetV2 ×0.5 on the image.

    In float32, and the smaller ones also in bf16 where the processor has it, as `precision = "auto"` then trains.
    """
    rows = []
    sizes = [(SMALL, 32, 16), (LARGE, 32, 16)]
    mobile = [((MOBILE, 3, 32), 10, b) for b in (8, 16, 64)]
    ways = [(*way, False) for way in [(s, K, b) for s in sizes for K in (10, 50) for b in (16, 32, 128)] + mobile]
    if device.type == "cuda" or cpu_has_bf16():
        ways += [(*way, True) for way in [(sizes[0], K, b) for K in (10, 50) for b in (16, 32, 128)] + mobile]
    for (net, channels, size), K, batch, half in ways:
        x = torch.randn(batch, channels, size, size, device=device).contiguous(memory_format=torch.channels_last)
        single = [build(net, channels).to(device).to(memory_format=torch.channels_last) for _ in range(K)]
        banked = build(net, channels, tasks=K).to(device).to(memory_format=torch.channels_last)

        def run(nets, x=x, half=half):
            for each in nets:
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
                    out = pooled(each(x)[-1].float())
                out.sum().backward()

        found = timed(device, rounds, separate=partial(run, single), bank=partial(run, [banked]))
        rows.append(
            {"net": describe(net), "precision": "bf16" if half else "fp32", "K": K, "batch": batch,
             "bank_images_s": round(batch / found["bank"], 1), "separate_images_s": round(batch / found["separate"], 1),
             "ratio": round(found["separate"] / found["bank"], 3)}
        )  # fmt: skip
    return rows


def pointwise(device, rounds, K=10, batch=32):
    """Three ways to compute a bank's 1×1 convolutions, at the shapes of MobileNetV2 ×0.5."""
    rows = []
    for c, o, size in ((16, 96, 32), (96, 16, 16), (32, 192, 16), (80, 480, 8), (160, 1280, 4)):
        x = torch.randn(batch, K * c, size, size, device=device).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        w = torch.randn(K * o, c, 1, 1, device=device, requires_grad=True)
        gradient = torch.randn(batch, K * o, size, size, device=device).contiguous(memory_format=torch.channels_last)

        def rows_of(x=x, c=c):
            return x.permute(0, 2, 3, 1).reshape(-1, K, c)  # (N·h·w, K, c)

        def back(y, size=size, o=o):  # (N·h·w, K, o) → (N, K·o, h, w)
            return y.reshape(batch, size, size, K * o).permute(0, 3, 1, 2)

        def grouped(x=x, w=w, gradient=gradient):
            F.conv2d(x, w, groups=K).backward(gradient)

        def products(w=w, gradient=gradient, rows_of=rows_of, back=back, c=c, o=o):
            y = torch.bmm(rows_of().transpose(0, 1), w.view(K, o, c).transpose(1, 2))
            back(y.transpose(0, 1)).backward(gradient)

        def one_by_one(w=w, gradient=gradient, rows_of=rows_of, back=back, c=c, o=o):
            wide, each = rows_of(), w.view(K, o, c)
            back(torch.stack([wide[:, k] @ each[k].T for k in range(K)], 1)).backward(gradient)

        found = timed(device, rounds, grouped=grouped, products=products, one_by_one=one_by_one)
        shape = f"{c} to {o} channels, {size}×{size}"
        rows.append({"shape": shape, **{f"{k}_ms": round(1e3 * v, 2) for k, v in found.items()}})
    return rows


def synthetic(K, images):
    """Return random images of K classes, of CIFAR-10's size."""
    random, image = np.random.default_rng(0), load_recipe("cifar10").image.spec()
    pixels = random.integers(0, 256, (images, *image.shape), dtype=np.uint8)
    return ImageSet(tuple(f"c{i}" for i in range(K)), random.integers(0, K, images), np.arange(images), image, pixels)


def world(device, K=10, batch=128, images=2048, seed=0):
    """Return the CIFAR-10 recipe's learner with K tasks, its optimiser, teacher and loader, on random images."""
    recipe = load_recipe("cifar10")
    image = recipe.image.spec()
    tasks = tuple(TaskSpec(f"t{i}", (f"c{i}",)) for i in range(K))
    data = synthetic(K, images)
    torch.manual_seed(seed)
    net = Classifier(recipe.teacher.net, image, K)
    teacher = Teacher(net, range(K), net.backbone.channels).to(device).to(memory_format=torch.channels_last)
    factors = FactorNet(recipe.ckn, recipe.tsn, image, tasks)
    learner = FactorLearner(factors, teacher.channels, recipe.objective, seed).to(device)
    learner = learner.to(memory_format=torch.channels_last).train()
    loader = MemoryLoader(data, batch, recipe.augment, seed, device)
    return learner, make_optimizer(learner, recipe.train), teacher, loader


def take_step(learner, optimizer, batch, taught, precision=torch.float32):
    """Take one step as the training loop does, without its logging."""
    with torch.autocast(batch.images.device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        terms = learner(batch.images, batch.labels, taught, 0)
        loss = torch.stack([term.weight * term.value for term in terms.values()]).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return terms


def taught_step(learner, optimizer, batch, teach):
    """Take one step, its teacher asked or read."""
    take_step(learner, optimizer, batch, teach(batch))


def outside(device, rounds):
    """A batch's making and a row's logging against the whole step."""
    learner, optimizer, teacher, loader = world(device)
    batches = iter(loader.epoch(0))
    batch = next(batches)
    live, log = Live(teacher), []

    def data():
        nonlocal batches
        try:
            next(batches)
        except StopIteration:
            batches = iter(loader.epoch(1))
            next(batches)

    def step():
        log.append(take_step(learner, optimizer, batch, live(batch)))

    def logging():
        log.append(torch.stack([term.value.detach() for term in log[-1].values()]).tolist())
        log.pop()

    step()
    found = timed(device, rounds, data=data, logging=logging, step=step)
    share = (found["data"] + found["logging"]) / sum(found.values())
    return {**{f"{name}_ms": round(1e3 * value, 3) for name, value in found.items()}, "share": round(share, 4)}


def precision(device, rounds):
    """The CIFAR-10 step, teacher included, both ways; and how much of it is the library's convolutions (profiled)."""
    from torch.profiler import profile

    ways, convolutions = {}, {}
    for name, kind, layout in (
        ("fp32_nchw", torch.float32, torch.contiguous_format),
        ("fp32_channels_last", torch.float32, torch.channels_last),
        ("bf16_channels_last", torch.bfloat16, torch.channels_last),
    ):
        learner, optimizer, teacher, loader = world(device)
        learner, teacher = learner.to(memory_format=layout), teacher.to(memory_format=layout)
        batch = next(iter(loader.epoch(0)))

        def way(learner=learner, optimizer=optimizer, teacher=teacher, batch=batch, kind=kind):
            live = Live(teacher, lambda: torch.autocast(device.type, torch.bfloat16, kind == torch.bfloat16))
            take_step(learner, optimizer, batch, live(batch), kind)

        ways[name] = way
    found = timed(device, rounds, **ways)
    for name, way in ways.items():
        with profile() as seen:
            for _ in range(rounds):
                way()
        microseconds = sum(
            event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            for event in seen.key_averages() if "convolution" in event.key
        )  # fmt: skip
        convolutions[f"{name}_convolutions_ms"] = round(microseconds / 1e3 / rounds, 1)
    return {**{f"{name}_ms": round(1e3 * value, 1) for name, value in found.items()}, **convolutions,
            "ratio": round(found["fp32_nchw"] / found["bf16_channels_last"], 3)}  # fmt: skip


def replay(device, rounds):
    """The step of a factorization and of a ResNet-20 student, with answers kept and without."""
    from kfdeploy.training.learners.classifier import ClassifierLearner

    rows = []
    for name in ("factors", "ResNet-20 student"):
        learner, optimizer, teacher, loader = world(device)
        if name != "factors":
            recipe = load_recipe("cifar10")
            net = Classifier(recipe.students[0].net, recipe.image.spec(), 10).to(device)
            learner = ClassifierLearner(net.to(memory_format=torch.channels_last), recipe.students[0].soft).train()
            optimizer = make_optimizer(learner, recipe.train)
        batch = next(iter(loader.epoch(0)))
        live = Live(teacher)
        with tempfile.TemporaryDirectory() as folder:
            kept = Replay(live, Path(folder), synthetic(10, 2048))
            kept(batch)
            asked = partial(taught_step, learner, optimizer, batch, live)
            found = timed(device, rounds, asked=asked, kept=partial(taught_step, learner, optimizer, batch, kept))
        rows.append({"what": name, **{f"{key}_ms": round(1e3 * value, 1) for key, value in found.items()},
                     "ratio": round(found["asked"] / found["kept"], 3)})  # fmt: skip
    return rows


def tasks(device, rounds):
    """The step without the teacher, K one-class tasks, batch 32."""
    rows = []
    for K in (2, 5, 10, 20, 50, 100):
        learner, optimizer, teacher, loader = world(device, K=K, batch=32, images=256)
        batch = next(iter(loader.epoch(0)))
        step = partial(take_step, learner, optimizer, batch, Live(teacher)(batch))
        found = timed(device, rounds, step=step)
        rows.append({"K": K, "step_ms": round(1e3 * found["step"], 2)})
    K, ms = (np.array([row[key] for row in rows], dtype=np.float64) for key in ("K", "step_ms"))
    slope, start = np.polyfit(K, ms, 1)
    exponent = np.polyfit(np.log(K[2:]), np.log(ms[2:]), 1)[0]
    return {"batch": 32, "rows": rows, "ms_per_task": round(slope, 3), "ms_at_0": round(start, 2),
            "exponent_from_10": round(exponent, 3)}  # fmt: skip


def memory(device, rounds):
    """Steps in fresh processes: what keeping freed memory saves, and the peak with CIFAR-10's 50,000 images held."""
    found = {}
    for name in ("kept", "default"):
        lines = subprocess.run(
            [sys.executable, __file__, "--probe", name, str(device), str(rounds)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found[name] = json.loads(lines.splitlines()[-1])
    ratio = found["default"]["step_ms"] / found["kept"]["step_ms"]
    return {**found, "ratio": round(ratio, 3)}


def waiting(device, rounds):
    """Steps in fresh processes whose OpenMP threads wait as by default, or asleep; quiet, and beside a busy one."""
    seen = {f"{place}, {policy}": [] for place in ("quiet", "busy") for policy in ("default", "passive")}
    for number in range(rounds):
        for name in list(seen) if number % 2 else list(seen)[::-1]:
            place, policy = name.split(", ")
            beside = [sys.executable, "-c", "while True: pass"]
            busy = subprocess.Popen(beside) if place == "busy" else None
            try:
                lines = subprocess.run(
                    [sys.executable, __file__, "--probe", "kept", str(device), "3"], capture_output=True, text=True,
                    check=True,
                    env=os.environ | {"OMP_WAIT_POLICY": "passive" if policy == "passive" else ""},
                ).stdout  # fmt: skip
            finally:
                if busy is not None:
                    busy.kill()
            seen[name].append(json.loads(lines.splitlines()[-1])["step_ms"])
    ms = {name: round(statistics.median(values), 1) for name, values in seen.items()}
    ratios = {place: round(ms[f"{place}, default"] / ms[f"{place}, passive"], 3) for place in ("quiet", "busy")}
    return {"step_ms": ms, "default_over_passive": ratios}


def probe(name, device, rounds):
    """Measure one process's steps and peak; printed as JSON."""
    if name == "kept":
        keep_memory()
    torch.set_num_threads(2)
    learner, optimizer, teacher, loader = world(torch.device(device), images=50_000)
    batches, live = loader.epoch(0), Live(teacher)

    def step():
        batch = next(batches)
        take_step(learner, optimizer, batch, live(batch))

    found = timed(torch.device(device), int(rounds) + 3, step=step)
    print(json.dumps({"step_ms": round(1e3 * found["step"], 1), "peak_mib": round(peak_mib())}))


PARTS = {part.__name__: part for part in (bank, pointwise, outside, precision, replay, tasks, memory, waiting)}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        probe(*sys.argv[2:])
    else:
        main()
