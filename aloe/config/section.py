"""What every block of configuration has in common."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class Section(BaseModel):
    """A frozen block of configuration that refuses keys it does not know.

    Where a number is expected, neither ``yes`` nor ``.inf`` is one.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_truth_for_numbers(cls, values: Any) -> Any:
        # Of the whole block: a field by which a union is told apart takes no such validator.
        given = values if isinstance(values, dict) else {}
        wrong = [
            _no_number(name, given[name])
            for name, field in cls.model_fields.items()
            if name in given and _is_truth_for_number(given[name], field.annotation)
        ]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return values

    def __hash__(self) -> int:
        # A block may hold mappings, which have no hash of their own.
        return hash((type(self), self.model_dump_json()))


def _no_number(name: str, value: Any) -> InitErrorDetails:
    kind = PydanticCustomError("number_expected", "Input should be a number")
    return InitErrorDetails(type=kind, loc=(name,), input=value)


def _is_truth_for_number(value: Any, kind: Any) -> bool:
    """Whether true or false stands, there or inside, where a number and no truth is expected."""
    kinds = _alternatives(kind)
    if isinstance(value, bool):
        return bool(kinds & {int, float}) and not kinds & {bool, Any}
    if not isinstance(value, dict | list | tuple):
        return False
    inner = [one for outer in kinds for one in get_args(outer)[-1:]]  # of items, or of values
    items = value.values() if isinstance(value, dict) else value
    return any(_is_truth_for_number(item, one) for one in inner for item in items)


def _alternatives(kind: Any) -> set[Any]:
    """The types that a union or an annotated type allows."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return {one for part in get_args(kind) for one in _alternatives(part)}
    return {kind}
