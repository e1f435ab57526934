"""Which tasks a recipe names, over what is known of the images: their class, or several fields."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from kfdeploy.errors import RecipeError, TrainingError, listed, nearest
from kfdeploy.reading import parse_json, read_named
from kfdeploy.schema import TASK, listing, record, require
from kfdeploy.tasks.spec import CLASS, TaskSpec, together
from kfdeploy.training.recipe.sections import Groups, Task

Named = Literal["classes", "fields"] | Groups | Mapping[str, list[str] | Task]


def tasks_of(
    named: Named, ignore: Sequence[str], columns: Sequence[str], fields: Sequence[str] = ()
) -> tuple[TaskSpec, ...]:
    """Return the tasks over the data's `columns`, whose fields are `fields` (none: all are of the field `class`).

    Where the teacher is to group classes, it is not asked here: groups of the right number and sizes are returned. Of
    several fields, one that no task names is left out; of a field that one names, each class has exactly one place.

    Raises:
        RecipeError: a class or a field is unknown, in two tasks, or a class is in none and not ignored.
    """
    if isinstance(named, Mapping) and not named:
        raise RecipeError(
            "[tasks] names no task", hint="tasks = 'classes' or 'fields', or lines such as pets = ['cat', 'dog']"
        )
    if fields:
        return together(_of_fields(named, ignore, columns, fields))
    _require_known(ignore, columns)
    kept = [name for name in columns if name not in ignore]
    if named == "classes":
        return tuple(TaskSpec(name, (name,)) for name in kept)
    if named == "fields":
        raise RecipeError(
            "tasks = 'fields' makes a task of each thing that is known of an image, and here that is its class alone",
            hint="tasks = 'classes', or [tasks] with lists of classes",
        )
    if isinstance(named, Groups):
        count = named.group
        if count > len(kept):
            raise RecipeError(
                f"tasks.group is {count}, and there are {len(kept)} classes",
                hint="set it to how many tasks there shall be; for one a class, tasks = 'classes'",
            )
        parts = (kept[len(kept) * i // count : len(kept) * (i + 1) // count] for i in range(count))
        return tuple(TaskSpec(f"group {i + 1}", tuple(part)) for i, part in enumerate(parts))
    found, weights = [], dict[str, float]()
    for task, about in named.items():
        if isinstance(about, Task) and about.field != CLASS:
            raise RecipeError(
                f"task '{task}' is of the field '{about.field}', and of these images the class alone is known",
                hint="put an attributes.csv beside their folder images/, or give the task a list of classes",
            )
        _require_weight(weights, CLASS, about)
        found.append(TaskSpec(task, tuple((about.classes or kept) if isinstance(about, Task) else about)))
    _require_places(found, kept, ignore)
    return tuple(found)


def _require_known(ignore: Sequence[str], columns: Sequence[str]) -> None:
    for name in ignore:
        if name not in columns:
            raise RecipeError(
                f"data.ignore names '{name}', which the data do not have", allowed=columns, hint=nearest(name, columns)
            )


def _require_places(tasks: Sequence[TaskSpec], kept: Sequence[str], ignore: Sequence[str]) -> None:
    """Refuse tasks of one field that leave a class out, share one, or name one that is not there or ignored."""
    owner: dict[str, str] = {}
    for task in tasks:
        if not task.classes:
            raise RecipeError(f"task '{task.name}' has no classes", allowed=kept)
        if not task.name.strip():
            raise RecipeError("a task has no name", hint="name it in [tasks]")
        for name in task.classes:
            if name in ignore:
                raise RecipeError(
                    f"class '{name}' is in task '{task.name}' and in data.ignore", hint="take it out of one of them"
                )
            if name not in kept:
                raise RecipeError(
                    f"task '{task.name}' names class '{name}', which the data do not have",
                    allowed=kept,
                    hint=nearest(name, kept),
                )
            if name in owner:
                raise RecipeError(
                    f"class '{name}' is in two tasks, '{owner[name]}' and '{task.name}'",
                    hint="a class belongs to one task",
                )
            owner[name] = task.name
    if lost := [name for name in kept if name not in owner]:
        raise RecipeError(
            f"no task has class '{lost[0]}'" + (f" (nor {', '.join(lost[1:])})" if lost[1:] else ""),
            hint=f"put it into a task, or leave it out: data.ignore = {lost}",
        )


def _of_fields(
    named: Named, ignore: Sequence[str], columns: Sequence[str], fields: Sequence[str]
) -> tuple[TaskSpec, ...]:
    """Return the tasks over several fields."""
    known: dict[str, list[str]] = {}
    left_out: dict[str, list[str]] = {}
    for column, field in zip(columns, fields, strict=True):
        plain = column if field == CLASS else column.removeprefix(f"{field}: ")
        for table in (known, left_out):
            table.setdefault(field, [])
        (left_out if column in ignore else known)[field].append(plain)
    _require_known([name for name in ignore if name not in known], columns)
    known = {field: names for field, names in known.items() if field not in ignore}
    if bare := [field for field, names in known.items() if not names]:
        raise RecipeError(
            f"data.ignore leaves out every class of the field '{bare[0]}'", hint=f"data.ignore = ['{bare[0]}']"
        )
    only = next(iter(known)) if len(known) == 1 else CLASS if CLASS in known else ""
    if named == "fields":
        return tuple(TaskSpec(field, tuple(names), field=field) for field, names in known.items())
    if named == "classes" or isinstance(named, Groups):
        raise RecipeError(
            "tasks = 'classes' and tasks.group are for images of which the class alone is known, and of these several "
            f"things are: {', '.join(listed(known))}",
            hint="tasks = 'fields', or [tasks] with lines such as hue = { field = 'hue' }",
        )
    found: dict[str, list[TaskSpec]] = {}
    weights: dict[str, float] = {}
    for task, about in named.items():
        field, classes = (about.field, about.classes) if isinstance(about, Task) else (only, about)
        if not field:
            raise RecipeError(
                f"task '{task}' is a list of classes, which does not say of which field they are",
                allowed=known, hint=f"{task} = {{ field = '…', classes = [...] }}",
            )  # fmt: skip
        if field not in known:
            raise RecipeError(
                f"task '{task}' is of the field '{field}', which the data do not have", allowed=known,
                hint=nearest(field, list(known)),
            )  # fmt: skip
        _require_weight(weights, field, about)
        own = classes or known[field] if isinstance(about, Task) else classes  # an empty list is no task of all
        found.setdefault(field, []).append(TaskSpec(task, tuple(own), field=field))
    for field, tasks in found.items():
        _require_places(tasks, known[field], left_out[field])
    return tuple(task for tasks in found.values() for task in tasks)


def _require_weight(weights: dict[str, float], field: str, about: list[str] | Task) -> None:
    """Keep the weight of a field's losses, and refuse a task of it with another one."""
    weight = about.weight if isinstance(about, Task) else 1.0
    if weights.setdefault(field, weight) != weight:
        raise RecipeError(
            f"the tasks of the field '{field}' have the weights {weights[field]:g} and {weight:g}",
            hint="a field's losses are one sum: give them all the same",
        )


def noted_tasks(path: Path) -> tuple[TaskSpec, ...]:
    """Return the tasks that were put on record when a run was begun.

    Raises:
        TrainingError: they cannot be read.
    """
    hint = "start afresh with --force"
    data = read_named(path, f"'{path}' is missing", hint, error=TrainingError)
    found = parse_json(data, str(path), error=TrainingError, hint=hint)
    require(found, listing(record(TASK), 1), path, hint)
    return tuple(TaskSpec.from_json(entry) for entry in found)
