"""What every table of a recipe is."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Section(BaseModel):
    """A table of a recipe: unknown keys and wrong types are errors.

    Keys that came after the first version are named in `LATER`, and left out of what is written where they have their
    default: a pool that needs none of them keeps its bytes.
    """

    LATER: ClassVar[tuple[str, ...]] = ()
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_serializer(mode="wrap")
    def _dump(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = whole(self)
        for name in self.LATER:
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                found.pop(name, None)
        return found
