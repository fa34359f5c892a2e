"""What a finished export holds: shares and tokens by domain, and its sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.export.exporter import FileSet

EXPORT, DOMAINS = "export.json", "domains.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What a finished export holds, per domain in the order of the selection's mixture.json."""

    folder: Path
    to: str
    layout: str
    domains: tuple[str, ...]
    planned_shares: FloatArray
    """(n_domains,) the mixture."""
    selection_tokens: IntArray
    """(n_domains,) of the selection, by the run's tokenizer."""
    realised_tokens: IntArray
    """(n_domains,) counted in the files that were written, by the export's tokenizer."""
    is_own_tokenizer: bool
    """Whether the export's tokenizer is the run's, so that both counts are the same."""
    sets: tuple[FileSet, ...]
    notes: tuple[str, ...]
    """What was left out, merged or filled up, in sentences."""
    usage: str
    """How the trainer is pointed to it, in a line."""

    @property
    def selection_shares(self) -> FloatArray:
        """(n_domains,) shares of the selection's tokens; sum to 1."""
        return token_fractions(self.selection_tokens)

    @property
    def realised_shares(self) -> FloatArray:
        """(n_domains,) shares of the tokens written; sum to 1."""
        return token_fractions(self.realised_tokens)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what a finished export holds.

        Raises:
            ArtifactError: The folder is not a finished export.
        """
        artifacts.require(folder, made_by="cuvee export")
        data = cast(dict[str, Any], artifacts.read_json(folder / EXPORT))
        named = {name: code for code, name in enumerate(data["domains"])}
        sets = cast(dict[str, Any], artifacts.read_json(folder / DOMAINS))["sets"]
        per_domain = list(data["domains"].values())
        return cls(
            folder=folder,
            to=data["to"],
            layout=data["layout"],
            domains=tuple(named),
            planned_shares=np.array([one["planned_share"] for one in per_domain]),
            # Exports made before other tokenizers could be given say nothing of the two.
            selection_tokens=np.array(
                [one.get("selection_tokens", one["realised_tokens"]) for one in per_domain],
                dtype=np.int64,
            ),
            realised_tokens=np.array(
                [one["realised_tokens"] for one in per_domain], dtype=np.int64
            ),
            is_own_tokenizer=data.get("is_own_tokenizer", True),
            sets=tuple(
                FileSet(
                    name=name,
                    phase=one["phase"],
                    domains=tuple(named[domain] for domain in one["domains"]),
                    n_documents=one["documents"],
                    n_tokens=one["tokens"],
                )
                for name, one in sets.items()
            ),
            notes=tuple(data["notes"]),
            usage=data["facts"]["usage"],
        )

    def to_json(self) -> dict[str, Json]:
        """Return shares and counts as plain JSON."""
        return {
            "to": self.to,
            "layout": self.layout,
            "units": "share of tokens",
            "is_own_tokenizer": self.is_own_tokenizer,
            "domains": by_domain(
                self.domains, self.planned_shares, self.selection_tokens, self.realised_tokens
            ),
            "notes": list(self.notes),
            "usage": self.usage,
        }


def by_domain(
    domains: Sequence[str], planned: FloatArray, selected: IntArray, realised: IntArray
) -> dict[str, Json]:
    """Return shares and tokens of each domain as JSON.

    Args:
        domains: (n_domains,) names.
        planned: (n_domains,) the mixture.
        selected: (n_domains,) tokens of the selection, by the run's tokenizer.
        realised: (n_domains,) tokens of the files, by the export's tokenizer.
    """
    shares = token_fractions(realised)
    columns: dict[str, Sequence[Json]] = {
        "planned_share": planned.tolist(),
        "selection_share": token_fractions(selected).tolist(),
        "selection_tokens": selected.tolist(),
        "realised_share": shares.tolist(),
        "realised_minus_planned": (shares - planned).tolist(),
        "realised_tokens": realised.tolist(),
    }
    return {
        name: {column: values[row] for column, values in columns.items()}
        for row, name in enumerate(domains)
    }


def token_fractions(tokens: IntArray) -> FloatArray:
    """Return (n_domains,) shares of (n_domains,) tokens; sum to 1."""
    return np.asarray(tokens / tokens.sum(), dtype=np.float64)
