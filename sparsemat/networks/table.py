"""A network as a table of matrices: shapes, nonzeros, parameters, operations and bytes."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ..convert.record import Call, Example, arguments, batch_axis, record
from ..layers.attention import SelfAttention
from .counts import bytes_of, count

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Row:
    """One call of one part; numbers are for one input, None where they do not apply.

    Attributes:
        name: Path of the part in the network.
        kind: Its class.
        input: Shape of its first input, with the batch axis.
        output: Shape of its first output, with the batch axis.
        shape: Rows and columns of its matrix.
        nnz: Nonzeros, of all its matrices where there are several.
        parameters: Parameters of the part; those that stood in a row above are not counted again.
        density: ``nnz / (rows * cols)``.
        lower: Lower bandwidth, channels first.
        upper: Upper bandwidth, channels first.
        operations: Multiplications and additions of a product with the matrix.
        bytes: Bytes of the pattern as it is held.
        dense_bytes: Bytes of the dense matrix, in the type of the input (for tokens, of the
            output).
        depends: What of the matrix depends on the data, ``""`` if nothing, ``"unknown"`` for a part
            that no rule knows, or called so that its matrix is not known.
    """

    name: str
    kind: str
    input: tuple[int, ...] | None
    output: tuple[int, ...] | None
    shape: tuple[int, int] | None
    nnz: int | None
    parameters: int
    density: float | None
    lower: int | None
    upper: int | None
    operations: int | None
    bytes: int | None
    dense_bytes: int | None
    depends: str


@dataclass(frozen=True)
class Summary:
    """The table of a network; ``str`` gives text.

    Attributes:
        rows: The parts, in the order in which they run.
        parameters: Distinct parameters of the whole network, those outside parts included.
        torch_operations: What torch's flop counter counts for one input. It counts taps that read
            padding, and nothing for recurrences.
        outside: The part of ``torch_operations`` that no row was running for: functional calls.
        idle: Paths of parts with parameters that did not run.
    """

    rows: tuple[Row, ...]
    parameters: int
    torch_operations: int
    outside: int
    idle: tuple[str, ...]

    def total(self, column: str) -> int:
        """The sum of a column of numbers, over the rows that have one."""
        return sum(getattr(row, column) or 0 for row in self.rows)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a frame, a column an attribute of :class:`Row`."""
        import pandas

        names = [field.name for field in fields(Row)]
        return pandas.DataFrame([astuple(row) for row in self.rows], columns=names)

    def to_markdown(self) -> str:
        """The table in Markdown, and the totals below."""
        head, *body = self._cells()
        lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]
        return "\n".join([*lines, "", *(f"- {line}" for line in self._totals())])

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:], rule, *self._totals()])

    def _cells(self) -> list[list[str]]:
        head = "name kind input output matrix nonzeros parameters density band operations"
        head = [*head.split(), "bytes", "dense bytes", "depends on data"]
        return [head, *(_cells(row) for row in self.rows)]

    def _totals(self) -> list[str]:
        lines = [
            f"nonzeros: {self.total('nnz'):,}",
            f"parameters: {self.parameters:,}",
            f"operations: {self.total('operations'):,}",
            f"operations by torch's counter: {self.torch_operations:,}, "
            f"of which outside the parts: {self.outside:,}",
            f"bytes of patterns: {self.total('bytes'):,}, "
            f"of dense matrices: {self.total('dense_bytes'):,}",
        ]
        unknown = [row.name or row.kind for row in self.rows if row.depends == "unknown"]
        if unknown:
            lines.append(f"no rule for: {', '.join(unknown)}")
        if self.idle:
            lines.append(f"did not run as parts: {', '.join(self.idle)}")
        return lines


def summary(model: nn.Module, input_shape: Example) -> Summary:
    """What a network is as sparse matrices, part by part, counted in one forward pass.

    No matrix is built; a model on the meta device allocates nothing. The model, its buffers and the
    random state stay as they are.

    Args:
        model: Any network, in the mode to be counted.
        input_shape: Shape of one input, without the batch axis; or an example input with it: a
            tensor, a tuple of arguments or a dictionary of named ones.

    Returns:
        The table, a row a call of a part without parts of its own.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: There is no tensor or no number in it, or a part does not take its input; then
            the message begins with its path.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    training = any(part.training for part in model.modules())
    args, kwargs = arguments(model, input_shape, 2 if training else 1)
    first = next((x for x in tree_leaves((args, kwargs)) if torch.is_tensor(x)), None)
    if first is None or not first.numel():
        got = "none" if first is None else f"shape {tuple(first.shape)}"
        raise ValueError(f"the example must begin with a tensor that has entries, got {got}")
    one_sequence = first.ndim == 2 and hasattr(model, "batch_first")
    batch = 1 if one_sequence or first.ndim == 0 else first.shape[batch_axis(model)]
    from torch.utils.flop_counter import FlopCounterMode  # brings triton: 0.2 s of an import

    counter = FlopCounterMode(display=False)
    with counter:
        seen = record(model, args, kwargs, clock=counter.get_total_flops)
    rows, inside, told, idle = [], set(), set(), []
    for part, path in seen.paths.items():
        own = not any(part.children()) or isinstance(part, WHOLE)
        if part in inside or not own:
            continue
        inside.update(part.modules())
        if not seen.calls[part] and next(part.parameters(), None) is not None:
            idle.append(path or type(part).__name__)
        rows += [(call, part, path) for call in seen.calls[part]]
    rows.sort(key=lambda row: row[0].order)
    made = tuple(_row(part, path, call, batch, told) for call, part, path in rows)
    counted = sum(call.clock for call, *_ in rows)
    total = counter.get_total_flops()
    return Summary(
        made,
        sum(p.numel() for p in model.parameters()),
        total // batch,
        (total - counted) // batch,
        tuple(idle),
    )


WHOLE = (nn.MultiheadAttention, SelfAttention)  # parts with parts that make one matrix


def _row(part: nn.Module, path: str, call: Call, batch: int, told: set[int]) -> Row:
    try:
        counted = count(part, call, batch)
    except (TypeError, ValueError) as error:
        where = f"{path} ({type(part).__name__})" if path else type(part).__name__
        raise type(error)(f"{where}: {error}") from error
    new = {id(p): p.numel() for p in part.parameters() if id(p) not in told}
    told.update(new)
    given = tuple(call.tensors[0].shape) if call.tensors else None
    output = call.output[0] if isinstance(call.output, (tuple, list)) else call.output
    made = tuple(output.shape) if torch.is_tensor(output) else None
    names = path, type(part).__name__, given, made
    if counted is None:
        return Row(*names, None, None, sum(new.values()), *(None,) * 6, "unknown")
    shape, nnz, operations, pattern, depends = counted
    cells = shape and shape[0] * shape[1]
    like = call.tensors[0] if call.tensors[0].is_floating_point() else output  # tokens are integers
    return Row(
        *(*names, shape, nnz, sum(new.values()), nnz / cells if cells else None),
        *(None, None) if pattern is None else (pattern.lower_bandwidth, pattern.upper_bandwidth),
        *(operations, None if pattern is None else bytes_of(pattern)),
        *(cells and cells * like.element_size(), depends),
    )


def _cells(row: Row) -> list[str]:
    def number(value: int | None) -> str:
        return "-" if value is None else f"{value:,}"

    def shape(value: tuple[int, ...] | None) -> str:
        return "-" if value is None else "x".join(map(str, value))

    band = "-" if row.lower is None else f"{row.lower:,} / {row.upper:,}"
    density = "-" if row.density is None else f"{row.density:.2g}"
    return [
        *(row.name or "(the network)", row.kind, shape(row.input), shape(row.output)),
        *(shape(row.shape), number(row.nnz), number(row.parameters), density, band),
        *(number(row.operations), number(row.bytes), number(row.dense_bytes), row.depends or "-"),
    ]
