"""What every table of a recipe is."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of a recipe: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
