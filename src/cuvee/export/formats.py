"""The one table of formats, from which the command line, its errors and the tests read."""

from collections.abc import Mapping
from types import MappingProxyType

from cuvee.errors import ConfigError
from cuvee.export.exporter import Exporter
from cuvee.export.hugging_face import HuggingFace
from cuvee.export.lit import Lit
from cuvee.export.llama_factory import LlamaFactory
from cuvee.export.megatron import Megatron
from cuvee.export.mosaic import Mosaic
from cuvee.export.nanotron import Nanotron
from cuvee.export.olmo import Olmo
from cuvee.export.torchtitan import Torchtitan

_ALL: tuple[Exporter, ...] = (
    Megatron(),
    Olmo(),
    Mosaic(),
    HuggingFace(),
    Nanotron(),
    Lit(),
    Torchtitan(),
    LlamaFactory(),
)
EXPORTERS: Mapping[str, Exporter] = MappingProxyType({one.name: one for one in _ALL})
"""Formats by name."""


def exporter_of(name: str) -> Exporter:
    """Return a format.

    Raises:
        ConfigError: There is none of that name.
    """
    try:
        return EXPORTERS[name]
    except KeyError as error:
        raise ConfigError(
            f"there is no format {name!r}; --to takes one of {', '.join(EXPORTERS)}."
        ) from error
