"""What an export reads: the selection of a finished run, and the run's tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray, IntArray
from cuvee.corpus.store import SUMMARY
from cuvee.errors import ArtifactError, DataError

MIXTURE = "mixture.json"
LINEAGE = "lineage.parquet"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SelectionFiles:
    """A selection on disk, per domain in the order of its mixture.json."""

    run: Path
    """The run's folder; the selection, the tokenizer and the token store stand in it."""
    domains: tuple[str, ...]
    planned_shares: FloatArray
    """(n_domains,) the mixture: shares of tokens."""
    realised_tokens: IntArray
    """(n_domains,) one end-of-text a copy included."""
    n_copies: IntArray
    """(n_domains,) rows of the parts."""
    n_bytes: IntArray
    """(n_domains,) UTF-8 bytes of text in the parts."""
    parts: tuple[Path, ...]
    """(n_parts,) Parquet files: id, text, domain, copy."""
    phase_of_part: IntArray
    """(n_parts,) position of each part's phase."""
    phase_shares: FloatArray
    """(n_phases,) share of the run's tokens; sum to 1."""
    seed: int
    """The run's seed."""

    @classmethod
    def open(cls, run: Path) -> Self:
        """Open the selection of a run.

        Args:
            run: The run's folder.

        Raises:
            ArtifactError: The selection or the tokenizer is missing, unfinished or damaged.
            DataError: The selection holds nothing.
        """
        folder = artifacts.require(run / "selection", made_by="cuvee select")
        artifacts.require(run / "tokenizer", made_by="cuvee label")
        data = cast(dict[str, Any], artifacts.read_json(folder / MIXTURE))
        if data["tokenizer"] != artifacts.digest_of(run / "tokenizer"):
            raise ArtifactError(
                f"{folder} was counted with another tokenizer than {run / 'tokenizer'}. Run "
                "`cuvee select` again under this tokenizer."
            )
        parts = tuple(sorted(folder.glob("part-*.parquet")))
        if len(parts) != data["n_shards"]:
            raise ArtifactError(
                f"{folder} holds {len(parts)} parts, but its {MIXTURE} counts {data['n_shards']}. "
                "Delete the folder and run `cuvee select` again."
            )
        per_domain = cast(Mapping[str, Mapping[str, float]], data["domains"])
        found = cls(
            run=run,
            domains=tuple(per_domain),
            planned_shares=np.array([one["planned_share"] for one in per_domain.values()]),
            realised_tokens=_counts(per_domain, "realised_tokens"),
            n_copies=_counts(per_domain, "copies"),
            n_bytes=_counts(per_domain, "bytes"),
            parts=parts,
            phase_of_part=np.repeat(
                np.arange(len(data["phases"])), [phase["n_shards"] for phase in data["phases"]]
            ),
            phase_shares=np.array([float(phase["share"]) for phase in data["phases"]]),
            seed=int(data["seed"]),
        )
        if found.realised_tokens.sum() < 1:
            raise DataError(f"{folder} holds no tokens; select something before it is exported.")
        return found

    @property
    def folder(self) -> Path:
        """The selection's folder."""
        return self.run / "selection"

    @property
    def tokenizer(self) -> Path:
        """The run's tokenizer.json."""
        return self.run / "tokenizer" / TOKENIZER

    @property
    def realised_shares(self) -> FloatArray:
        """(n_domains,) shares of the tokens; sum to 1."""
        return np.asarray(self.realised_tokens / self.realised_tokens.sum(), dtype=np.float64)

    @property
    def store(self) -> Path | None:
        """The token store, where there is one of the run's own tokenizer."""
        folder = self.run / "tokens"
        if not artifacts.is_done(folder):
            return None
        summary = cast(Mapping[str, object], artifacts.read_json(folder / SUMMARY))
        own = artifacts.digest_of(self.run / "tokenizer")
        return folder if summary["tokenizer"] == own else None


def _counts(per_domain: Mapping[str, Mapping[str, float]], name: str) -> IntArray:
    return np.array([values[name] for values in per_domain.values()], dtype=np.int64)
