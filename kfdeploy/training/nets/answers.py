"""What a teacher answers: which of its columns is which class, of which field."""

from collections.abc import Mapping, Sequence

from kfdeploy.data.names import class_list, column_of
from kfdeploy.errors import TeacherError, listed, nearest
from kfdeploy.tasks.spec import CLASS, LOGITS

Answered = Mapping[str, Sequence[Sequence[str]]]  # of each field all that each of its classes is called


def class_columns(
    known: Sequence[Sequence[str]], wanted: Sequence[str], aliases: Mapping[str, str] | None = None
) -> list[int]:
    """Return the teacher's column of each wanted class; `known` are all that each of its classes is called.

    `aliases` are other names of wanted classes: of the folders that they lie in.

    Raises:
        TeacherError: the teacher does not know one.
    """
    found = []
    for name in wanted:
        column = column_of(name, known)
        other = (aliases or {}).get(name, name)
        if column is None and other != name:
            column = column_of(other, known)
        if column is None:
            several = [each[0] for each in known if name in each]
            raise TeacherError(
                f"the teacher knows several classes called '{name}'" if several else
                f"the teacher does not know the class '{name}'",
                allowed=several or listed([each[0] for each in known]),
                hint=nearest(name, [each for names in known for each in names])
                or "set teacher.classes to its classes in its order ('imagenet' for ImageNet's thousand), or leave "
                "some out with data.ignore",
            )  # fmt: skip
        found.append(column)
    for i, column in enumerate(found):
        if column in found[:i]:
            raise TeacherError(
                f"'{wanted[found.index(column)]}' and '{wanted[i]}' are one class of the teacher",
                hint="leave one out with data.ignore",
            )
    return found


def answers(
    classes: str | Sequence[str] | Mapping[str, Sequence[str]], data_classes: Sequence[str], fields: Sequence[str] = ()
) -> Answered:
    """Return what a teacher answers, in the order of its columns: by default all that the data know.

    `classes` are the recipe's `teacher.classes`, of one field a list, of several a table. `data_classes` are the
    data's columns, and `fields` whose each of them is; none: the class is all that is known.

    Raises:
        TeacherError: there are several fields, and a list of classes does not say of which it is.
    """
    own: dict[str, list[str]] = {}
    for i, name in enumerate(data_classes):
        field = fields[i] if fields else CLASS
        own.setdefault(field, []).append(name if field == CLASS else name.removeprefix(f"{field}: "))
    if isinstance(classes, Mapping):
        if not fields:
            raise TeacherError(
                "teacher.classes is a table of fields, and of these images the class alone is known",
                hint="set it to a list of classes",
            )
        if lost := next((field for field, names in classes.items() if not names and field not in own), None):
            raise TeacherError(
                f"teacher.classes has no class of '{lost}', which the data do not have either", allowed=listed(own),
                hint=nearest(lost, list(own)) or "name the classes, which tell where the next field's columns begin",
            )  # fmt: skip
        return {field: [(name,) for name in names or own[field]] for field, names in classes.items()}
    if not classes:
        return {field: [(name,) for name in names] for field, names in own.items()}
    field = CLASS if CLASS in own or len(own) != 1 else next(iter(own))
    if own and field not in own:
        raise TeacherError(
            "teacher.classes is a list, and of these images several things are known",
            allowed=listed(own), hint="set it to a table: teacher.classes = { field = [its classes] }",
        )  # fmt: skip
    return {field: class_list(classes) if isinstance(classes, str) else [(name,) for name in classes]}


def teacher_columns(
    answered: Answered, wanted: Sequence[str], fields: Mapping[str, str], aliases: Mapping[str, str] | None = None
) -> list[int]:
    """Return the teacher's column of each wanted one; -1 where it does not answer its field at all.

    `fields` says whose each of the data's columns is; what it does not name is of the field `class`.

    Raises:
        TeacherError: it answers a field and does not know one of its classes; or not one of the fields.
    """
    start, found = 0, dict.fromkeys(wanted, -1)
    for field, known in answered.items():
        names = [name for name in wanted if fields.get(name, CLASS) == field]
        plain = names if field == CLASS else [name.removeprefix(f"{field}: ") for name in names]
        for name, column in zip(names, class_columns(known, plain, aliases), strict=True):
            found[name] = start + column
        start += len(known)
    if wanted and max(found.values()) < 0:
        raise TeacherError(
            "the teacher answers none of the fields that the tasks are of", allowed=listed(answered),
            hint="name what it answers in teacher.classes, or choose other tasks",
        )  # fmt: skip
    return [found[name] for name in wanted]


def outputs_for(output: str | Mapping[str, str], answered: Answered) -> str | list[str]:
    """Return which outputs of an ONNX teacher hold what it answers, from the recipe's `teacher.output`.

    Of several fields each has an output of its own, which is called as the field unless the recipe says otherwise; a
    single output that is named holds them all, one after another.

    Raises:
        TeacherError: the recipe names the output of a field that is not answered.
    """
    if isinstance(output, str) and (output or len(answered) == 1):
        return output
    named = {} if isinstance(output, str) else output
    if lost := next((field for field in named if field not in answered), None):
        raise TeacherError(
            f"teacher.output names an output of '{lost}', which the teacher does not answer", allowed=listed(answered),
            hint=nearest(lost, list(answered)) or "name what it answers in teacher.classes",
        )  # fmt: skip
    return [named.get(field, LOGITS if field == CLASS else field) for field in answered]
