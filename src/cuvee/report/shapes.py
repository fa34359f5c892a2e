"""Sections of the report refuse arrays that do not fit their names."""

from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.errors import DataError


def check_shape(
    name: str, values: FloatArray | IntArray | BoolArray | None, shape: tuple[int | None, ...]
) -> None:
    """Refuse an array of another shape.

    Args:
        name: What it holds, for the message.
        values: The array; None passes.
        shape: Allowed size of each dimension, None for any.

    Raises:
        DataError: The shape differs.
    """
    if values is None:
        return
    fits = values.ndim == len(shape) and all(
        allowed in (None, found) for allowed, found in zip(shape, values.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise DataError(
            f"report: {name} has shape {values.shape}; it must be ({wanted}). Pass one value for "
            "each name of its section."
        )


def check_length(name: str, values: tuple[str, ...], length: int) -> None:
    """Refuse names of another number than there are runs.

    Raises:
        DataError: The number differs.
    """
    if len(values) != length:
        raise DataError(
            f"report: {name} has {len(values)} entries for {length} runs; pass one for each run."
        )
