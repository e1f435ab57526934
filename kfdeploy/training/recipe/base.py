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
        silent = self.silent()
        return {key: value for key, value in whole(self).items() if key not in silent}

    def silent(self) -> set[str]:
        """Return the keys that are left out of what is written, as they say nothing."""
        known = type(self).model_fields
        return {n for n in self.LATER if getattr(self, n) == known[n].get_default(call_default_factory=True)}
