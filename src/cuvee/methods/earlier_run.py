"""A finished run that is to be used again: what it measured, on what text, and why it may not be.

Its folder is read, never written to, and only until the new run's design stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import yaml

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.corpus.scan import read_index
from cuvee.corpus.store import TokenStore
from cuvee.corpus.tokens import TOKENIZER, TokensConfig
from cuvee.design.reuse import DomainChanges, why_refused
from cuvee.errors import ArtifactError, ConfigError
from cuvee.methods import chain_files
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.tables.design import REUSED, Design
from cuvee.tables.runs import Runs

ABOUT = "reuse.json"
"""File of the design stage that says what was taken over."""
_PREFIX = "earlier-"
_MADE_BY = "cuvee run regmix"
_NEEDED = ("corpus/index", "tokenizer", "tokens", "design", "runs", "optimum")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprints:
    """Digests of the texts that a sweep reads."""

    train: Mapping[str, str]
    """By domain, its training side."""
    sets: Mapping[str, str]
    """By evaluation set: a domain's validation side, a target's search half."""

    @classmethod
    def read(cls, out: Path) -> Self:
        """Read those of a run's folder.

        Raises:
            ArtifactError: It was made by a version that kept none.
        """
        pool = read_index(out)
        if not pool.domain_fingerprints:
            raise ArtifactError(
                f"{pool.folder} was made by a version of cuvee that kept no fingerprints of "
                "domains; run it again with this one, or leave reuse out."
            )
        has_targets = (out / "targets" / "index").exists()
        part = "" if has_targets else " (half)"  # where domains are targets, the verdict has half
        sets = {
            f"domain/{name}": one["validation"] + part
            for name, one in pool.domain_fingerprints.items()
        }
        if has_targets:
            targets = read_index(out, "targets")
            losses = {  # of a task, what is asked and what is measured
                shard.domain: f" ({config.text})"
                for shard, config in zip(targets.shards, targets.configs, strict=True)
                if shard.format == "task"
            }
            sets |= {
                f"target/{name}": one["search"] + losses.get(name, "")
                for name, one in targets.domain_fingerprints.items()
            }
        return cls(
            train={name: one["train"] for name, one in pool.domain_fingerprints.items()}, sets=sets
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierRun:
    """The finished run."""

    folder: Path
    runs: Runs
    design: Design
    optimum: Mapping[str, float]
    """Share of each domain."""
    fingerprints: Fingerprints

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a run's folder.

        Raises:
            ArtifactError: It is not there, not finished, or without fingerprints.
            ConfigError: Its mixtures have phases.
        """
        _require_finished(folder)
        there = Job(out=folder, workers=0)
        found, fingerprints = chain_files.read_found(there), Fingerprints.read(folder)
        if set(found.domains) != set(fingerprints.train):
            raise ConfigError(
                f"reuse: {folder} has mixtures of phases; only a run of one phase can be used "
                "again. Name another run, or leave reuse out."
            )
        return cls(
            folder=folder,
            runs=chain_files.read_measured(there),
            design=chain_files.read_made_design(there),
            optimum=dict(zip(found.domains, found.weights, strict=True)),
            fingerprints=fingerprints,
        )

    def spec(self, run_id: str) -> Mapping[str, Json]:
        """Return what decided a run's result; one that it took over itself was like its own.

        Raises:
            ConfigError: Another method made the folder.
        """
        path = self.folder / "sweep" / run_id / "spec.json"
        if path.exists():
            spec = cast(Mapping[str, Json], artifacts.read_json(path))
            if "trainer" in spec:
                raise ConfigError(
                    f"reuse: the runs of {self.folder} were measured by another trainer; only "
                    f"those of `{_MADE_BY}` can be used again. Leave reuse out."
                )
            return spec
        taken = self.folder / "design" / ABOUT
        if not taken.exists():
            raise ConfigError(
                f"reuse: {self.folder} has no {path.relative_to(self.folder)}; only a run of "
                f"`{_MADE_BY}` can be used again. Name another folder, or leave reuse out."
            )
        about = cast(dict[str, Any], artifacts.read_json(taken))
        return cast(Mapping[str, Json], about["spec"])

    def learning_rate(self) -> float:
        """Return the learning rate of its proxies."""
        return cast(float, self.spec(self.runs.run_ids[0])["learning_rate"])

    def target_tokens(self) -> int:
        """Return the token budget that its proxies stood for."""
        text = (self.folder / "config.yaml").read_text(encoding="utf-8")
        settings = cast(dict[str, Any], yaml.safe_load(text))
        store = TokenStore.open(self.folder / "tokens")
        statistics = store.statistics(settings["pool"]["available_tokens"])
        return int(settings["target_tokens"] or statistics.available_tokens.sum())

    def refusals(
        self, out: Path, prepared: Prepared, wanted: Mapping[str, Json], changes: DomainChanges
    ) -> dict[str, str]:
        """Say by id why runs cannot stand beside new ones.

        Args:
            out: Folder of the new run.
            prepared: Its objective.
            wanted: What decides the result of its runs.
            changes: Between the two pools.
        """
        runs, refused = self.runs, {}
        shared = self._other_text(out, prepared)
        objective = [runs.targets.index(one) for one in prepared.objective_names if not shared]
        for row, run_id in enumerate(runs.run_ids):
            reason = why_refused(
                self.spec(run_id),
                wanted,
                shares=dict(zip(runs.domains, runs.weights[row].tolist(), strict=True)),
                unchanged=changes.unchanged,
            )
            if runs.diverged[row]:
                reason = reason or shared or "diverged"
            elif np.isnan(runs.losses_bpb[row, objective]).any():
                reason = reason or "not measured on all that the objective holds"
            if reason or shared:
                refused[run_id] = str(reason or shared)
        return refused

    def take(
        self,
        run_ids: Sequence[str],
        changes: DomainChanges,
        *,
        domains: tuple[str, ...],
        sets: Mapping[str, str],
    ) -> tuple[Design, Runs]:
        """Return runs as rows of the new run's tables.

        Columns are the new pool's domains, then the texts that are gone since. A revised domain's
        old text is gone, too, and bears a name of its own.

        Args:
            run_ids: Those to take.
            changes: Between the two pools.
            domains: (n_domains,) names of the new pool.
            sets: Its evaluation sets in order, with their fingerprints. A loss on other text of
                that name becomes NaN.
        """
        rows = [self.runs.run_ids.index(name) for name in run_ids]
        columns = self._columns(rows, changes, domains)
        losses = np.full((2, len(rows), len(sets)), np.nan)
        for place, (name, fingerprint) in enumerate(sets.items()):
            if name in self.runs.targets and self.fingerprints.sets.get(name) == fingerprint:
                column = self.runs.targets.index(name)
                losses[:, :, place] = [
                    table[rows, column] for table in (self.runs.losses, self.runs.losses_bpb)
                ]
        names = tuple(_PREFIX + name for name in run_ids)
        planned = np.stack([self.design.row(name) for name in run_ids])
        design = Design(
            run_ids=names,
            kinds=(REUSED,) * len(names),
            domains=tuple(columns),
            weights=_arranged(columns, self.design.domains, planned),
        )
        runs = Runs(
            run_ids=names,
            domains=tuple(columns),
            weights=_arranged(columns, self.runs.domains, self.runs.weights[rows]),
            targets=tuple(sets),
            losses=losses[0],
            losses_bpb=losses[1],
            diverged=self.runs.diverged[rows],
            n_tokens=self.runs.n_tokens[rows],
        )
        return design, runs

    def _other_text(self, out: Path, prepared: Prepared) -> str | None:
        """Say what all runs lack: the tokenizer, or a loss on all that the objective holds."""
        digests = {
            artifacts.digest_file(folder / "tokenizer" / TOKENIZER) for folder in (self.folder, out)
        }
        if len(digests) > 1:
            return "read with another tokenizer"
        now = Fingerprints.read(out).sets
        for name in prepared.objective_names:
            if name not in self.runs.targets:
                return f"not measured on {name}, which the objective holds"
            if self.fingerprints.sets.get(name) != now[name]:
                return f"measured on other text of {name}, which the objective holds"
        return None

    def _columns(
        self, rows: Sequence[int], changes: DomainChanges, domains: tuple[str, ...]
    ) -> dict[str, str | None]:
        """Return the earlier name of every new column, None where there was none."""
        columns = {name: name if name in changes.unchanged else None for name in domains}
        for column, name in enumerate(self.runs.domains):
            if name in changes.unchanged or not self.runs.weights[rows, column].any():
                continue
            gone = name
            while gone in columns:
                gone += " (before)"
            columns[gone] = name
        return columns


def take_tokenizer(tokens: TokensConfig, folder: Path) -> TokensConfig:
    """Return settings that take over an earlier run's tokenizer, unless they name another.

    Raises:
        ArtifactError: The earlier run is not there or not finished.
        ConfigError: Its tokenizer was trained with other settings.
    """
    _require_finished(folder)
    if tokens.tokenizer is not None:
        return tokens
    manifest = artifacts.read_json(folder / "tokenizer" / artifacts.MANIFEST)
    before = cast(dict[str, dict[str, Json]], manifest)["settings"]
    for key in ("vocabulary_size", "sample_bytes"):
        wanted = getattr(tokens, key)
        if before.get(key, wanted) != wanted:
            raise ConfigError(
                f"tokens.{key} is {wanted}, but the tokenizer of {folder} was made with "
                f"{before[key]}. Set tokens.{key}: {before[key]}, or leave reuse out."
            )
    return replace(tokens, tokenizer=str(folder / "tokenizer" / TOKENIZER))


def _require_finished(folder: Path) -> None:
    for stage in _NEEDED:
        artifacts.require(folder.joinpath(*stage.split("/")), made_by=_MADE_BY)


def _arranged(
    columns: Mapping[str, str | None], names: tuple[str, ...], weights: FloatArray
) -> FloatArray:
    """Move (n_rows, len(names)) weights to the new columns; those left out are 0."""
    moved = np.zeros((len(weights), len(columns)))
    for place, name in enumerate(columns.values()):
        if name is not None:
            moved[:, place] = weights[:, names.index(name)]
    return moved
