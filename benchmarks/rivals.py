"""The rivals of factors in `front.py`, besides students of all classes: each a function that trains and returns a row.

- "experts": Pool of Experts (Kim, Choi and Kim, SIGMOD 2021): a library that all tasks share, taken from a distilled
  student and frozen, and an expert a task by conditional distillation; a subset's experts stand side by side.
- "pruned": class-aware pruning without retraining (Hemmat, San Miguel and Davoodi, DAC 2020, CAP'NN): channels that
  rarely fire for the wanted classes leave a distilled student, by statistics kept of each class.
- "subset": what a training run for each product would give: students distilled for one task's classes alone.
- "separate": a student a task, its classes against the rest, side by side.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kfdeploy.deploy.model import Model
from kfdeploy.training.loop.learner import Learner, Term
from kfdeploy.training.nets.branches import merged
from kfdeploy.training.nets.build import build, describe
from kfdeploy.training.nets.classifier import Classifier, Normalise
from kfdeploy.training.nets.layers import pooled
from kfdeploy.training.nets.weights import read_weights, start_from

ALPHA = 0.3  # of L_scale, as published


class Experts(nn.Module):
    """image → (logits (N, C),): a frozen library and a bank of experts, each with a linear layer of its own."""

    def __init__(self, recipe, image, tasks):
        super().__init__()
        self.normalise, self.ckn = Normalise(image), build(recipe.ckn, image.channels)
        self.tap = int(recipe.tsn.tap.removeprefix("stage")) - 1
        self.bank = build(recipe.tsn.net, self.ckn.channels[self.tap], tasks=len(tasks))
        self.sizes, self.D = [len(task.classes) for task in tasks], self.bank.channels[-1]
        self.heads = nn.ModuleList(nn.Linear(self.D, size) for size in self.sizes)

    def train(self, mode=True):
        super().train(mode)
        self.ckn.eval()  # its statistics are the library's
        return self

    def forward(self, image):
        with torch.no_grad():
            tap = self.ckn(self.normalise(image))[self.tap]
        u = pooled(self.bank(tap)[-1]) if self.training else self.bank(tap)[-1].mean((2, 3))
        return (torch.cat([head(u[:, j * self.D : (j + 1) * self.D]) for j, head in enumerate(self.heads)], 1),)


class Conditional(Learner):
    """Conditional distillation: Σ_j T² KL over the classes of task j alone, and α times the distance of its logits."""

    def __init__(self, net, temperature):
        super().__init__()
        self.net, self.temperature = net, temperature

    def forward(self, images, labels, taught, step):
        logits = self.net(images)[0].float()
        soft, scale, T = logits.new_zeros(()), logits.new_zeros(()), self.temperature
        for own, other in zip(logits.split(self.net.sizes, 1), taught.logits.split(self.net.sizes, 1), strict=True):
            pair = F.log_softmax(own / T, 1), F.log_softmax(other / T, 1)
            soft = soft + T * T * F.kl_div(*pair, reduction="batchmean", log_target=True)
            scale = scale + (own - other).abs().sum(1).mean()
        return {"soft": Term(1.0, soft), "scale": Term(ALPHA, scale)}

    def evaluate(self, images):
        return self.net(images)[0]


def experts(recipe, out, row, result):
    """Train the experts of all tasks on the library of another row; return the row."""
    from front import count_macs, of_model, trained

    from kfdeploy.cli.console import TrainingProgress
    from kfdeploy.training.experiment import Experiment
    from kfdeploy.training.writing.classifier import write_classifier

    experiment = Experiment(recipe, TrainingProgress())
    teacher = experiment.teacher(out / "teacher", resume=True)[0]
    torch.manual_seed(recipe.seed)
    net = Experts(recipe, experiment.image, experiment.tasks)
    library = recipe.ckn.model_copy(update={"weights": f"pool:{out.with_name(row['library'].replace(' ', '-'))}-0"})
    start_from(net.ckn, library, experiment.image.channels, "the library")
    net.ckn.requires_grad_(False)
    learner = Conditional(net, recipe.objective.temperature)
    fitted = experiment.fit(learner, out / "train", row["name"], recipe.train, teacher=teacher, resume=True)
    macs, tasks = [], experiment.tasks
    for count in (1, 2, 3, len(tasks)):
        some = Experts(recipe, experiment.image, tasks[:count])
        some.ckn = net.ckn
        state = {key: value for key, value in net.bank.state_dict().items() if "num_batches" not in key}
        own = {k: v[: len(v) * count // len(tasks)] for k, v in state.items()}
        some.bank.load_state_dict(own, strict=False)
        some.heads = net.heads[:count]
        place = out.with_name(f"{out.name}-{count}")
        if not (place / "assembly.json").exists() and not (place / "student.json").exists():
            place.mkdir(parents=True, exist_ok=True)
            about = {"teacher": {}, "net": f"{describe(recipe.ckn)}; {describe(recipe.tsn.net)}",
                     "training": experiment.training(recipe.train, fitted), "recipe": recipe.model_dump()}  # fmt: skip
            write_classifier(place, some, "student", f"experts-{count}", experiment.only(tasks[:count]), about)
        macs.append(count_macs(Model.open(place).graph))
    model = Model.open(out.with_name(f"{out.name}-{len(tasks)}"))
    found = trained(model.manifest["training"], out / "train") | {"nets": model.manifest["net"], "macs": macs}
    return found | of_model(recipe, model, model.evidence(), row, result["tasks"])


def pruned(recipe, out, row, result):
    """Prune another row's student for every task and pair, by shares of channels; return the row."""
    from front import answers, count_macs

    from kfdeploy.training.experiment import Experiment
    from kfdeploy.training.writing.to_onnx import to_onnx

    experiment = Experiment(recipe)
    classes, image = experiment.classes, experiment.image
    net = Classifier(recipe.students[0].net, image, len(classes))
    folder = out.with_name(f"{row['student'].replace(' ', '-')}-0") / recipe.students[0].name
    net.load_state_dict(read_weights(folder / "state.safetensors", "student"), strict=False)
    net = merged(net.eval())
    blocks = [module for module in net.modules() if type(module).__name__ == "BasicBlock"]
    fired = [firing(net, blocks, experiment.train, len(classes))]
    columns = [[classes.index(name) for name in members] for members in result["tasks"].values()]
    rows = []
    for share in row["shares"]:
        each = {"share": share, "macs": [], "validation": {}, "test": {}}
        for size, count in (("one", 1), ("two", 2)):
            accuracies = {"validation": [], "test": []}
            for number, some in enumerate(itertools.combinations(columns, count)):
                wanted = sorted(itertools.chain(*some))
                small = without(net, fired[0], wanted, share)
                for split, data in (("validation", experiment.validation), ("test", experiment.test)):
                    part = data.only([classes[c] for c in wanted])
                    logits = np.concatenate(
                        [small(torch.from_numpy(images))[0].detach().numpy() for images in part.batches(500)]
                    )
                    hit = answers(logits, list(range(len(wanted))), part.labels)
                    accuracies[split].append(round(100 * float(hit.mean()), 2))
                if number == 0:
                    graph = to_onnx(
                        _First(small), torch.zeros(2, *image.shape, dtype=torch.uint8), ["image"], ["logits"]
                    )
                    each["macs"].append(count_macs(graph.model))
            for split, found in accuracies.items():
                each[split] |= {size: found}
        for split in ("validation", "test"):
            each[split]["mean"] = {size: round(float(np.mean(each[split][size])), 2) for size in ("one", "two")}
        rows.append(each)
        print(each["share"], each["macs"], each["validation"]["mean"], flush=True)
    return {"nets": describe(recipe.students[0].net), "pruned": rows, "validation": rows[0]["validation"], "minutes": 0}


class _First(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, image):
        return self.net(image)[0]


@torch.no_grad()
def firing(net, blocks, data, count):
    """Return how often each inner channel of each block fires on images of each class, `[(channels, C), …]`."""
    found = [torch.zeros(block.conv1.out_channels, count) for block in blocks]
    rates, number = {}, np.bincount(data.labels, minlength=count)
    hooks = [
        block.bn1.register_forward_hook(lambda _, __, y, i=i: rates.update({i: (y > 0).float().mean((2, 3))}))
        for i, block in enumerate(blocks)
    ]
    labels, at = torch.from_numpy(data.labels), 0
    for images in data.batches(500):
        net(torch.from_numpy(images))
        for i in range(len(blocks)):
            found[i].index_add_(1, labels[at : at + len(images)], rates[i].T)
        at += len(images)
    for hook in hooks:
        hook.remove()
    return [table / torch.from_numpy(number).clamp(min=1) for table in found]


@torch.no_grad()
def without(net, fired, wanted, share):
    """Return a copy with the columns of the wanted classes and without the `share` of channels that fire least."""
    import copy

    small = copy.deepcopy(net)
    blocks = [module for module in small.modules() if type(module).__name__ == "BasicBlock"]
    for block, table in zip(blocks, fired, strict=True):
        rates = table[:, wanted].mean(1)
        keep = max(8, round(len(rates) * (1 - share) / 8) * 8)  # runtimes compute in blocks of eight channels
        chosen = rates.topk(keep).indices.sort().values
        narrow(block, chosen)
    head = nn.Linear(small.head.in_features, len(wanted))
    head.weight.copy_(small.head.weight[wanted])
    head.bias.copy_(small.head.bias[wanted])
    small.head = head
    return small.eval()


def narrow(block, chosen):
    """Leave a block just some of its inner channels, in place."""
    first, second, norm = block.conv1, block.conv2, block.bn1
    block.conv1 = nn.Conv2d(first.in_channels, len(chosen), 3, first.stride, 1, bias=False)
    block.conv2 = nn.Conv2d(len(chosen), second.out_channels, 3, second.stride, 1, bias=False)
    block.bn1 = nn.BatchNorm2d(len(chosen))
    block.conv1.weight.copy_(first.weight[chosen])
    block.conv2.weight.copy_(second.weight[:, chosen])
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(block.bn1, name).copy_(getattr(norm, name)[chosen])


def subset(recipe, out, row, result):
    """Distil the recipe's first student for some tasks, each alone; return the row."""
    from front import answers, count_macs

    from kfdeploy.cli.console import TrainingProgress
    from kfdeploy.data.sources import load_split
    from kfdeploy.graph.reference import Runner
    from kfdeploy.training.distill import distill

    names, found = list(result["tasks"]), {"validation": {}, "test": {}}
    student, minutes, images = recipe.students[0], 0.0, 0
    if row.get("from"):
        weights = out.with_name(f"{row['from'].replace(' ', '-')}-0") / student.name / "state.safetensors"
        student = student.model_copy(update={"net": student.net.model_copy(update={"weights": str(weights)})})
        recipe = recipe.model_copy(update={"students": [student]})
    for name in [names[i] for i in row["tasks"]]:
        (place,) = distill(
            recipe, students=[student.name], tasks=[name], out=out, resume=True, report=TrainingProgress()
        )
        model = Model.open(place)
        evidence, classes = model.evidence(), list(model.classes)
        labels = np.array([classes.index(each) for each in evidence.labels])
        everything = list(range(len(classes)))
        share = answers(evidence.logits, everything, labels).mean()
        found["validation"][name] = round(100 * float(share), 2)
        data = load_split(recipe.data.source, recipe.data.root, "test", recipe.image.spec()).only(model.classes)
        run = Runner(model.graph, threads=2)
        logits = np.concatenate([run(batch)["logits"] for batch in data.batches(500)])
        found["test"][name] = round(100 * float(answers(logits, everything, data.labels).mean()), 2)
        lines = (Path(place) / "train" / "timing.csv").read_text(encoding="utf-8").splitlines()[1:]
        minutes += sum(float(line.split(",")[1]) for line in lines) / 60
        images, macs = model.manifest["training"]["images"], [count_macs(model.graph)]
    for split in ("validation", "test"):
        found[split] = {"tasks": found[split], "mean": {"one": round(float(np.mean(list(found[split].values()))), 2)}}
    return found | {"nets": describe(student.net), "macs": macs, "images": images, "epochs": recipe.train.epochs,
                    "minutes": round(minutes / len(row["tasks"]), 1)}  # fmt: skip


def separate(recipe, out, row, result):
    """Distil one student a task, each against the rest, side by side; return the row."""
    from front import count_macs, of_model, trained

    from kfdeploy.cli.console import TrainingProgress
    from kfdeploy.training.distill import distill

    (place,) = distill(
        recipe, students=[recipe.students[0].name], separate=True, out=out, resume=True, report=TrainingProgress()
    )
    model, count = Model.open(place), len(result["tasks"])
    training = model.manifest["training"]
    keys = ("epochs", "images", "precision", "threads")
    whole = count_macs(model.graph)
    folders = [place / "train" / f"{number + 1}" for number in range(count)]
    minutes = sum(trained(training, folder)["minutes"] for folder in folders)
    found = {key: training[key] for key in keys} | {"minutes": round(minutes, 1), "nets": model.manifest["net"]}
    macs = [round(whole * k / count, 3) for k in (1, 2, 3, count)]
    return found | {"macs": macs} | of_model(recipe, model, model.evidence(), row, result["tasks"])


KINDS = {"experts": experts, "pruned": pruned, "subset": subset, "separate": separate}
