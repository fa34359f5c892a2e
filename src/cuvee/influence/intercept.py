"""Linear maps and attention of a module, seen and replaced while it runs.

Functions are caught where the module calls them, so that modules made of nn.Linear, of Conv1D and
of bare parameters are treated alike and none has to be changed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, slots=True)
class LinearMap:
    """A call y = W x + b of a known parameter."""

    name: str
    x: Tensor
    """(..., n_in)."""
    weight: Tensor
    """W, (n_out, n_in), without gradient."""
    bias: Tensor | None
    transposed: bool
    """The parameter holds the transpose of W."""

    def plain(self) -> Tensor:
        """Return y."""
        return F.linear(self.x, self.weight, self.bias)


Linear: TypeAlias = Callable[[LinearMap], Tensor]
Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]


class Intercept(TorchFunctionMode):
    """While active, known linear maps go to one function and attention to another."""

    def __init__(
        self, names: Mapping[int, str], *, linear: Linear, attention: Attention | None = None
    ) -> None:
        """Take the replacements.

        Args:
            names: Name of a parameter by its ``id``.
            linear: Computes y of a known linear map.
            attention: Maps queries, keys, values (B, H, T, K) and the scale to (B, H, T, K); None
                to leave attention alone.
        """
        super().__init__()
        self._names = names
        self._linear = linear
        self._attention = attention

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace what is known, pass on the rest."""
        kwargs = kwargs or {}
        if func is F.linear:
            use = self._as_linear(*args, **kwargs)
        elif func is torch.addmm and len(args) == 3 and not kwargs:
            use = self._as_addmm(args[0], args[1], args[2])
        elif func is F.scaled_dot_product_attention and self._attention is not None:
            return self._attention(args[0], args[1], args[2], kwargs.get("scale"))
        else:
            return func(*args, **kwargs)
        return func(*args, **kwargs) if use is None else self._linear(use)

    def _as_linear(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> LinearMap | None:
        name = self._names.get(id(weight))
        if name is None:
            return None
        return LinearMap(name, input, weight.detach(), bias, transposed=False)

    def _as_addmm(self, bias: Tensor, x: Tensor, weight: Tensor) -> LinearMap | None:
        name = self._names.get(id(weight))
        if name is None:
            return None
        return LinearMap(name, x, weight.detach().t(), bias, transposed=True)
