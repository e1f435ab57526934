"""The typed recipe: everything an experiment is, in one TOML file, whole and without inheritance."""

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from kfdeploy.errors import RecipeError, nearest
from kfdeploy.reading import MOST_TEXT, ReadingError, read_named, toml_of
from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.training.recipe.base import Section
from kfdeploy.training.recipe.named import tasks_of
from kfdeploy.training.recipe.nets import CifarResNet, Net, Timm
from kfdeploy.training.recipe.sections import (
    Augment,
    Data,
    Groups,
    Image,
    Objective,
    Run,
    Student,
    Task,
    Teacher,
    Train,
    Tsn,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


DEFAULT = "digits"
_TABLE = Task.__name__  # in pydantic's path to what is wrong inside a task that is a table


class Recipe(Section):
    """One experiment, whole."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # of the pool, in manifests and tables
    seed: int = Field(0, ge=0, le=10**12)  # of weights, batches and views
    # 'classes': a task for each class; 'fields': for each field; or [tasks] with lists of classes, with tables such as
    # { field = 'shape' }, or with group = 10: so many, by the teacher.
    tasks: Literal["classes", "fields"] | Groups | dict[str, list[str] | Task]
    data: Data  # the images
    image: Image  # the input
    augment: Augment = Augment()  # the views
    teacher: Teacher  # what is factorized
    ckn: Net  # the common network: a net
    tsn: Tsn  # the task networks
    objective: Objective = Objective()  # the terms of the loss
    train: Train  # the optimisation of the factors
    run: Run = Run()  # the machine
    students: list[Student] = Field(default_factory=list)  # the alternatives to assemblies

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if isinstance(self.tsn.net, Timm):
            raise ValueError(
                "a TSN must be a net that can be banked: cifar_resnet, resnet, wide_resnet, mobilenetv2 or convnet"
            )
        if self.tsn.net.weights:
            raise ValueError("the TSNs of all tasks are trained together from nothing; leave tsn.net.weights out")
        if isinstance(self.tsn.net, CifarResNet) and self.tsn.net.shortcut == "A":
            raise ValueError("a TSN cannot use option A shortcuts (they pad channels); set shortcut = 'projection'")
        couplings = [self.objective.coupling, *(field.coupling for field in self.data.fields.values())]
        if "independent" in couplings and self.train.label_smoothing:
            raise ValueError(
                "train.label_smoothing spreads a label over the classes of all tasks, and coupling = 'independent' has "
                "none such; set it to 0"
            )
        # Runtimes compute in blocks of 8 channels; a bank of odd widths would lose what grouping wins.
        widths = {"convnet": "channels", "cifar_resnet": "width"}.get(self.tsn.net.family)
        if widths and any(c % 8 for c in _numbers(getattr(self.tsn.net, widths))):
            raise ValueError(f"the channels of a TSN must be multiples of 8 (tsn.net.{widths})")
        for name in ("mean", "std"):
            if getattr(self.teacher, name) and len(getattr(self.teacher, name)) != self.image.channels:
                raise ValueError(f"teacher.{name} must have {self.image.channels} values, one a channel")
        if self.teacher.std and min(self.teacher.std) <= 0:
            raise ValueError("teacher.std must be positive")
        names = [student.name for student in self.students]
        if len(set(names)) < len(names):
            raise ValueError(f"two students have one name: {', '.join(names)}")
        return self

    def fields_named(self) -> tuple[str, ...] | None:
        """Return the fields that its tasks name; none where they do not, and all that are there may be meant."""
        if not isinstance(self.tasks, dict):
            return None
        fields = [task.field for task in self.tasks.values() if isinstance(task, Task)]
        return tuple(dict.fromkeys(fields)) if len(fields) == len(self.tasks) else None

    def task_specs(
        self, classes: Sequence[str], fields: Sequence[str] = (), ignored: Collection[str] = ()
    ) -> tuple[TaskSpec, ...]:
        """Return the tasks over the data's columns, checking that each class has exactly one place; see `tasks_of`.

        `ignored` are fields that were left out, as `data.ignore` asks.

        Raises:
            RecipeError: a class is unknown, in two tasks, or in none and not ignored.
        """
        ignore = [name for name in self.data.ignore if name not in ignored]
        return tasks_of(self.tasks, ignore, classes, fields)

    def weights(self) -> dict[str, float]:
        """Return of each field that a task names the weight of its losses."""
        named = self.tasks.values() if isinstance(self.tasks, dict) else ()
        return {task.field: task.weight for task in named if isinstance(task, Task)}


def _numbers(value: int | list[int]) -> list[int]:
    return [value] if isinstance(value, int) else value


def shipped() -> dict[str, Path]:
    """Return the shipped recipes by name: from the package's own data, else beside it (a checkout)."""
    package = Path(__file__).parents[2]
    for folder in (package / "_data" / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}


_SHOW = "kfdeploy recipes show digits"


def find_recipe(name: str) -> Path:
    """Return the file of a recipe named by path or by shipped name.

    Raises:
        RecipeError: there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    recipes = shipped()
    if name in recipes:
        return recipes[name]
    raise RecipeError(
        f"there is no recipe '{name}', neither a file nor a shipped name",
        allowed=recipes,
        hint=nearest(name, list(recipes)) or "kfdeploy recipes list",
    )


def recipe_text(name: str) -> str:
    """Return the text of a recipe by path or shipped name, as it stands there.

    Raises:
        RecipeError: there is none, it cannot be read, or it is no text.
    """
    path = find_recipe(name)
    data = read_named(path, f"there is no recipe at '{path}'", _SHOW, error=RecipeError, most=MOST_TEXT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"'{path}' is no text: {error}", hint=_SHOW) from None


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by path or shipped name, with `key=value` overrides such as `train.epochs=5`.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown key, or a wrong type.
    """
    path = find_recipe(str(name))
    data = read_named(path, f"there is no recipe at '{path}'", _SHOW, error=RecipeError, most=MOST_TEXT)
    try:
        fields = toml_of(data)
    except ReadingError as error:
        raise RecipeError(f"'{path}' is not TOML: {error}", hint=_SHOW) from None
    recipe = parse_recipe(apply_settings(fields, overrides), str(path))
    # A relative path in a recipe is meant from the recipe's folder if it leads somewhere there, else from here.
    return _anchor(recipe, path.parent)


def parse_recipe(fields: Mapping[str, Any], origin: str) -> Recipe:
    """Check the fields of a recipe.

    Raises:
        RecipeError: an unknown key or a wrong type, by its dotted name.
    """
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise _explain(_chosen(error.errors()), origin) from None


def apply_settings(fields: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a recipe's fields with `key=value` overrides, such as `train.epochs=5`.

    Raises:
        RecipeError: an override is not `key=value`, or its key leads into a value.
    """
    changed = copy.deepcopy(dict(fields))
    for override in overrides:
        _set(changed, override)
    return changed


def _set(fields: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"--set takes key=value, not '{override}'", hint="kfdeploy factorize digits --set train.epochs=5"
        )
    try:
        value = toml_of(f"value = {text}".encode())["value"]
    except (ReadingError, KeyError):
        value = text  # a bare word is a string
    *parents, last = key.strip().split(".")
    section: Any = fields
    for parent in parents:
        if isinstance(section, list) and parent.isdigit() and int(parent) < len(section):
            section = section[int(parent)]  # one of several: students.0.name
        elif isinstance(section, dict):
            section = section.setdefault(parent, {})
        else:
            section = None
    if not isinstance(section, dict):
        inner = ".".join(parents)
        hint = f"--set 'tasks={{{last}={text}}}'" if inner == "tasks" else ""  # it may be a text, or a table
        raise RecipeError(f"--set {key}: '{inner}' is not a section of the recipe", hint=hint)
    section[last] = value


def _chosen(errors: "Sequence[ErrorDetails]") -> "ErrorDetails":
    """Return the error that is told: the first, but of a task that is a table what is wrong inside it."""
    first = errors[0]
    inside = (each for each in errors if each["loc"][:1] == ("tasks",) and _TABLE in each["loc"][:-1])
    return next(inside, first) if first["loc"][:1] == ("tasks",) else first


def _explain(error: "ErrorDetails", origin: str) -> RecipeError:
    # pydantic puts a union's tag into the location: "tsn.net.convnet.channels".
    families = ("cifar_resnet", "resnet", "wide_resnet", "mobilenetv2", "convnet", "timm")
    where = [part for part in error["loc"] if part not in families]
    given = error["input"].get("group") if isinstance(error["input"], dict) else None
    if where and where[0] == "tasks" and given is not None and not isinstance(given, list):
        others = len(error["input"]) > 1 and isinstance(given, int)
        return RecipeError(
            f"recipe '{origin}' has tasks.group = {given!r}, "
            + ("and other tasks beside it" if others else "where the number of tasks is meant, 2 or more"),
            hint="tasks.group stands alone, and lets the teacher's confusions make the tasks: --set tasks={group=10}",
        )
    table = _TABLE in where[:-1]
    if table:  # "tasks.dict[…].hue.Task.field"
        where = ["tasks", *where[2 : where.index(_TABLE)], *where[where.index(_TABLE) + 1 :]]
    elif where and where[0] == "tasks" and error["type"] != "missing":
        return RecipeError(
            f"recipe '{origin}' has tasks = {error['input']!r}, where a list of classes is meant",
            hint="tasks = 'classes' or 'fields', or [tasks] with lines such as pets = ['cat', 'dog'] or "
            "hue = { field = 'hue' }",
        )
    key = ".".join(str(part) for part in where)
    if error["type"] == "extra_forbidden":
        family = str(next((p for p in error["loc"] if p in families), ""))
        allowed = list(Task.model_fields) if table else _keys(where[:-1], family)
        return RecipeError(
            f"recipe '{origin}' has an unknown key '{key}'", allowed=allowed, hint=nearest(str(where[-1]), allowed)
        )
    if error["type"] == "missing":
        return RecipeError(f"recipe '{origin}' lacks '{key}'", hint="kfdeploy recipes show digits")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return RecipeError(f"recipe '{origin}'{', ' + key if key else ''}: {message}")
    if error["type"] == "union_tag_invalid":
        tag = str(error["ctx"]["tag"])
        return RecipeError(
            f"recipe '{origin}', {key}: there is no net family '{tag}'", allowed=families, hint=nearest(tag, families)
        )
    return RecipeError(f"recipe '{origin}' has {key} = {error['input']!r}: {message[0].lower() + message[1:]}")


def _keys(where: Sequence[str | int], family: str) -> list[str]:
    """Return the keys that the section at `where` may have."""
    section: Any = Recipe
    for part in where:
        if isinstance(part, int) or part not in section.model_fields:  # one of several, or of a table's own names
            continue
        found = _sections(section.model_fields[part].annotation)
        section = next((kind for kind in found if _family(kind) == family), found[0])
    return list(section.model_fields)


def _sections(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for inner in getattr(annotation, "__args__", ()) for section in _sections(inner)]


def _family(section: Any) -> str:
    field = section.model_fields.get("family")
    return str(field.annotation.__args__[0]) if field else ""


def _anchor(recipe: Recipe, folder: Path) -> Recipe:
    def from_folder(text: str) -> str:
        beside = folder / text
        return str(beside) if text and not Path(text).is_absolute() and beside.exists() else text

    def net(found: Any) -> Any:
        if found is None or not found.weights:
            return found
        kind, colon, path = found.weights.partition(":")
        weights = f"pool:{from_folder(path)}" if kind == "pool" and colon else from_folder(found.weights)
        return found.model_copy(update={"weights": weights})

    kind, colon, path = recipe.teacher.source.partition(":")
    source = f"{kind}:{from_folder(path)}" if kind in ("file", "onnx") else kind + colon + path
    data, teacher = recipe.data, recipe.teacher
    names = data.names if isinstance(data.names, dict) else from_folder(data.names)
    classes = from_folder(teacher.classes) if isinstance(teacher.classes, str) else teacher.classes
    return recipe.model_copy(
        update={
            "data": data.model_copy(update={"root": from_folder(data.root), "names": names}),
            "teacher": teacher.model_copy(
                update={
                    "source": source,
                    "weights": from_folder(teacher.weights),
                    "classes": classes,
                    "net": net(teacher.net),
                }
            ),
            "ckn": net(recipe.ckn),
            "students": [each.model_copy(update={"net": net(each.net)}) for each in recipe.students],
        }
    )


def completed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe that was written by an older version with the defaults of keys that came since."""
    try:
        return parse_recipe(fields, "an older recipe").model_dump()
    except RecipeError:
        return dict(fields)


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys in which two recipes (as `model_dump` gives them) differ."""
    keys: list[str] = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            keys += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            keys.append(f"{prefix}{key}")
    return keys
