"""A causal language model as the influence engine sees it, and the matrices it tracks.

Parameters outside the tracked matrices (embedding, head, norms, biases) are held fixed: they are in
no gradient, no factor and no score.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from cuvee.errors import ConfigError, DataError
from cuvee.influence.intercept import Intercept, LinearMap

Where: TypeAlias = Literal["attention", "mlp", "all"] | Callable[[str], bool]
"""Matrices by kind, or a predicate on the parameter's dotted name."""
Hidden: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_ATTENTION = re.compile(r"attn|attention|query|key|value|qkv|[qkvo]_proj|(^|\.)w[qkvo](\.|$)")
_FUSED = re.compile(r"qkv|query_key_value|c_attn")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class CausalModel:
    """A module, how its loss is computed, and how documents are laid before it."""

    module: nn.Module
    """Whose parameters are tracked; on its device, in its type."""
    hidden: Hidden
    """Maps tokens (B, T) and segments (B, T) to last hidden states, (B, T, C) or (B * T, C). A
    token may see earlier tokens of its own segment only."""
    head: Tensor | None
    """(V, C) logits = hidden @ head.T; None where ``hidden`` returns the logits themselves."""
    context: int
    """Longest sequence, in tokens."""
    start: int | None = None
    """Token put before each document, so that its first token is predicted too."""
    tokenizer: str = ""
    """Digest of the tokenizer; factors and gradients made with another one are refused."""
    precision: Literal["own", "bfloat16"] = "own"
    """Type of matrix products: the module's own, or bfloat16 by autocast."""
    layout: Literal["packed", "bucketed"] = "packed"
    """Several documents in a sequence, apart by their segments; or one in each, beside others of
    like length and padded on the right, for modules that do not know segments."""
    batch_tokens: int = 8192
    """Tokens at work at once."""
    plain_attention: bool = False
    """True: every scaled_dot_product_attention of the module means causal attention within
    segments, and may be computed document by document."""

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the module's parameters."""
        return next(self.module.parameters()).dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which products have the stated precision."""
        if self.precision == "own":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Layer:
    """A tracked matrix W (n_out, n_in) of a linear map y = W x + b."""

    name: str
    """Of the parameter."""
    n_out: int
    n_in: int
    transposed: bool
    """The parameter holds the transpose of W, as in transformers' Conv1D."""
    group: int
    """Matrices of one group read the same input."""

    @property
    def fused(self) -> bool:
        """Whether the name says that query, key and value stand one over another in W."""
        return bool(_FUSED.search(self.name))


def is_attention(name: str) -> bool:
    """Tell whether a parameter's name is that of an attention projection.

    Example:
        >>> is_attention("model.layers.0.self_attn.o_proj.weight"), is_attention("h.0.mlp.c_proj")
        (True, False)
    """
    return bool(_ATTENTION.search(name))


def tracked_layers(model: CausalModel, where: Where) -> tuple[Layer, ...]:
    """Find the matrices that a forward pass uses in linear maps, in the order of its parameters.

    Two tokens are run through the module; a matrix counts if ``F.linear`` or ``torch.addmm`` (as
    nn.Linear and Conv1D call them) receives the parameter itself. The head is never tracked.

    Args:
        model: The model.
        where: Which of them.

    Raises:
        ConfigError: ``where`` is unknown.
        DataError: No matrix is left.
    """
    wanted = _predicate(where)
    names = {id(value): name for name, value in model.module.named_parameters()}
    inputs: list[Tensor] = []
    found: dict[str, Layer] = {}

    def record(use: LinearMap) -> Tensor:
        group = next((i for i, known in enumerate(inputs) if known is use.x), len(inputs))
        if group == len(inputs):
            inputs.append(use.x)
        n_out, n_in = use.weight.shape
        found[use.name] = Layer(use.name, n_out, n_in, use.transposed, group)
        return use.plain()

    tokens = torch.zeros(1, 2, dtype=torch.int64, device=model.device)
    with torch.no_grad(), evaluating(model.module), Intercept(names, linear=record):
        model.hidden(tokens, torch.zeros_like(tokens))
    head = None if model.head is None else model.head.data_ptr()
    parameters = dict(model.module.named_parameters())
    layers = tuple(
        found[name]
        for name, value in parameters.items()
        if name in found and wanted(name) and value.data_ptr() != head
    )
    if not layers:
        raise DataError(
            f"where={where!r} leaves no matrix to track; linear maps of this model are: "
            f"{', '.join(found) or 'none'}. Name some of them by a predicate on names."
        )
    return layers


def matrix(model: CausalModel, layer: Layer) -> Tensor:
    """Return W of a layer, (n_out, n_in), a view of the parameter."""
    value = model.module.get_parameter(layer.name).detach()
    return value.t() if layer.transposed else value


def weights_digest(model: CausalModel, layers: tuple[Layer, ...]) -> str:
    """Return the sha256 of the tracked matrices with their names, shapes and type."""
    digest = hashlib.sha256()
    for layer in layers:
        value = matrix(model, layer)
        digest.update(f"{layer.name} {layer.n_out} {layer.n_in} {value.dtype}\n".encode())
        digest.update(value.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch dropout off and parameters' gradients off; put both back at the end."""
    training = [part for part in module.modules() if part.training]
    learning = [value for value in module.parameters() if value.requires_grad]
    module.eval()
    try:
        for value in learning:
            value.requires_grad_(False)
        yield
    finally:
        for part in training:
            part.training = True
        for value in learning:
            value.requires_grad_(True)


def _predicate(where: Where) -> Callable[[str], bool]:
    if callable(where):
        return where
    kinds: dict[str, Callable[[str], bool]] = {
        "attention": is_attention,
        "mlp": lambda name: not is_attention(name),
        "all": lambda _: True,
    }
    if where not in kinds:
        raise ConfigError(
            f"where={where!r} is unknown; allowed: {', '.join(kinds)}, or a predicate on names."
        )
    return kinds[where]
