"""What every section of a study file has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo

SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"

#: The name of a function as package.module:function.
IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"

#: Characters that SLURM allows in names of accounts, partitions and the like, commas for lists included; in a GPU type.
NAMES, GPU_TYPE = r"^[A-Za-z0-9][A-Za-z0-9._,@:+-]*$", r"^[A-Za-z0-9_.]+$"

#: What these patterns ask for, for messages.
PATTERNS = {
    SAFE_NAME: "letters, digits and . _ + - alone, a letter or digit first",
    IMPORT_PATH: "the name of a function as package.module:function",
    NAMES: "letters, digits and . _ , @ : + - alone, a letter or digit first",
    GPU_TYPE: "letters, digits, _ and . alone",
}


class Section(BaseModel):
    """A section of the study file: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_booleans_as_numbers(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key, value in data.items():
                if isinstance(value, bool) and key in cls.model_fields and not _takes_booleans(cls.model_fields[key]):
                    raise ValueError(
                        f"{key}: {str(value).lower()} is given where true and false have no meaning; give a value as "
                        "in config/reference.md"
                    )
        return data


def _takes_booleans(field: FieldInfo) -> bool:
    return bool in (field.annotation, *get_args(field.annotation))
