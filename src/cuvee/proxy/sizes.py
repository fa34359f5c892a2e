"""Named model sizes: parameters without embedding and head, from "0.03m" to "800m"."""

from dataclasses import dataclass

from cuvee.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """Dimensions of a proxy model."""

    name: str
    n_layers: int
    width: int
    n_heads: int
    hidden: int
    """Width inside the SwiGLU block."""

    @property
    def n_parameters(self) -> int:
        """Parameters of all blocks, without embedding, head and norms."""
        return self.n_layers * (4 * self.width**2 + 3 * self.width * self.hidden)

    def flops_per_token(self, vocabulary_size: int, context: int) -> int:
        """Floating-point operations of one training token, forward and backward.

        6 x (block parameters + head parameters) + 12 x layers x width x context / 2 for causal
        attention.
        """
        matmul = self.n_parameters + self.width * vocabulary_size
        return 6 * matmul + 6 * self.n_layers * self.width * context


# Our choice: head width 16 to 64, hidden near 8/3 of the width and a multiple of 16. "1m" is the
# proxy of RegMix (arXiv:2407.01492): 2 layers, width 256, 8 heads.
_SIZES: tuple[tuple[str, int, int, int, int], ...] = (
    ("0.03m", 2, 32, 2, 96),
    ("0.05m", 2, 48, 3, 128),
    ("0.1m", 2, 64, 4, 176),
    ("0.2m", 2, 96, 6, 256),
    ("0.4m", 2, 128, 4, 352),
    ("0.8m", 4, 128, 4, 352),
    ("1m", 2, 256, 8, 512),
    ("1.5m", 2, 256, 8, 688),
    ("3m", 4, 256, 8, 688),
    ("10m", 6, 384, 6, 1024),
    ("20m", 6, 512, 8, 1376),
    ("30m", 10, 512, 8, 1376),
    ("60m", 12, 640, 10, 1712),
    ("85m", 12, 768, 12, 2048),
    ("300m", 24, 1024, 16, 2736),
    ("800m", 16, 2048, 16, 5472),
)

SIZES: dict[str, ModelSize] = {
    name: ModelSize(name=name, n_layers=layers, width=width, n_heads=heads, hidden=hidden)
    for name, layers, width, heads, hidden in _SIZES
}


def model_size(name: str) -> ModelSize:
    """Look up a size by name.

    Raises:
        ConfigError: No such size.

    Example:
        >>> model_size("0.1m").n_parameters
        100352
    """
    try:
        return SIZES[name]
    except KeyError:
        raise ConfigError(f"model size {name!r} is unknown; allowed: {', '.join(SIZES)}.") from None
