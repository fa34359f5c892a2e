"""Decide, over all scanned shards, which documents are used and on which side they stand."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cuvee import artifacts
from cuvee.arrays import BoolArray, IntArray, KeyArray
from cuvee.artifacts import Json
from cuvee.corpus import duplicates, index_files
from cuvee.corpus.duplicates import FIRST_SIDE, HELD_OUT, ScannedShard, is_used
from cuvee.corpus.exclude import digest_keys, mark_excluded, read_excluded
from cuvee.corpus.fingerprint import ContentDigest, SideDigests
from cuvee.corpus.index_files import ShardCounts, Totals
from cuvee.corpus.pool import PoolConfig, Shard
from cuvee.corpus.splits import LastResort, assign_half, assign_side
from cuvee.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["pool", "targets"]
SIDES: Mapping[Kind, tuple[str, str]] = {
    "pool": ("train", "validation"),
    "targets": ("search", "verdict"),
}
DROPPED_SIDE = "dropped"


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolIndex:
    """What is known of a pool, or of all target sets, after the label pass."""

    folder: Path
    """The index's artefact folder."""
    shards: tuple[Shard, ...]
    """In order of their URLs."""
    configs: tuple[PoolConfig, ...]
    """(n_shards,) how each shard is read."""
    domains: tuple[str, ...]
    """(n_domains,) sorted names; the target sets' names in an index of targets."""
    sides: tuple[str, str]
    """train and validation, or search and verdict."""
    fingerprint: str
    """SHA-256 of texts and domains, whatever their layout."""
    domain_fingerprints: Mapping[str, Mapping[str, str]]
    """By domain and side, SHA-256 of the texts; empty in an index made by an earlier version."""
    n_documents: Mapping[str, IntArray]
    """By side and ``"dropped"``: (n_domains,) documents."""
    n_bytes: Mapping[str, IntArray]
    """By side and ``"dropped"``: (n_domains,) UTF-8 bytes of text."""
    n_distinct_documents: Mapping[str, IntArray]
    """By side and ``"dropped"``: (n_domains,) documents, those of equal text counted once."""
    n_rows: int
    """Rows read."""
    n_rejects: Mapping[str, int]
    """Rejected rows by reason; none at all where no row was rejected."""
    n_excluded: int = 0
    """Documents left out by lists of ids (`PoolConfig.exclude`)."""

    def documents(self, shard: Shard) -> pa.Table:
        """Read a shard's documents: row, key, domain, side, n_bytes, distinct; in order of rows.

        Rejected rows are not in it. Documents of side ``"dropped"`` are, and are not to be used.
        ``distinct`` is true of one of the documents of a side and domain that have the same text.
        """
        return pq.read_table(self.folder / "documents" / f"{shard.name}.parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexJob:
    """What an index is made from."""

    kind: Kind
    """Which sides there are, and whether ids are unique over all or within each target."""
    shards: tuple[Shard, ...]
    """All shards."""
    configs: tuple[PoolConfig, ...]
    """How they are read: one config, or one for each target."""
    config_of_shard: tuple[int, ...]
    """(n_shards,) positions in ``configs``."""
    scan_folder: Path
    """Holds the finished scan of each shard, under its name."""
    seed: int
    """The run's seed."""

    def settings(self) -> Json:
        """Return what the index depends on, besides the scans, as JSON."""
        settings: dict[str, Json] = {
            "kind": self.kind,
            "shards": [shard.url for shard in self.shards],
            "validation_share": [each.validation_share for each in self.configs],
            "max_reject_share": [each.max_reject_share for each in self.configs],
        }
        if any(each.exclude for each in self.configs):
            settings["exclude"] = [digest_keys(read_excluded(each)) for each in self.configs]
        return settings


def index_pool(job: IndexJob, folder: Path) -> PoolIndex:
    """Make the index of scanned shards, in memory that does not grow with the pool.

    Args:
        job: What from.
        folder: The index's artefact folder, not yet finished.

    Returns:
        The finished index.

    Raises:
        DataError: There are no documents, too many rows were rejected, or a target lacks text.
        ConfigError: available_tokens names a domain that does not exist.
    """
    folder.with_name("rejects.jsonl").unlink(missing_ok=True)
    counts = [index_files.read_counts(job.scan_folder / shard.name) for shard in job.shards]
    domains = tuple(sorted({name for count in counts for name in count["domains"]}))
    with artifacts.writing(
        folder,
        stage="label",
        settings=job.settings(),
        seed=job.seed,
        inputs={
            shard.name: artifacts.digest_of(job.scan_folder / shard.name) for shard in job.shards
        },
    ) as aside:
        scans = list(_placed(job, counts))
        codes = {name: code for code, name in enumerate(domains)}
        marks = _new_marks(aside / "marks.bin", sum(scan.n_documents for scan in scans))
        duplicates.mark_duplicate_ids(scans, marks, codes, within_domain=job.kind == "targets")
        n_excluded = _exclude(job, scans, marks)
        n_rejects = index_files.write_rejects(aside / "rejects.jsonl", job.shards, scans, marks)
        n_twice = [index_files.n_duplicates(scan, marks) for scan in scans]
        _check_rejects(job, counts, n_twice, aside / "rejects.jsonl")
        content, held_out = ContentDigest(domains), _divider(job, scans, marks, codes)
        digests = SideDigests(len(domains), len(SIDES[job.kind]))
        duplicates.mark_sides(
            scans, marks, codes, held_out=held_out, content=content, sides=digests
        )
        sides = (*SIDES[job.kind], DROPPED_SIDE)
        totals = index_files.write_documents(aside / "documents", scans, marks, domains, sides)
        _check_domains(job, domains, totals)
        index_files.write_descriptors(aside / "descriptors.json", scans, marks, totals, domains)
        (aside / "marks.bin").unlink()
        about: dict[str, Json] = {
            "domains": list(domains),
            "sides": list(SIDES[job.kind]),
            "fingerprint": content.hexdigest(),
            "domain_fingerprints": {
                name: dict(zip(SIDES[job.kind], found, strict=True))
                for name, found in zip(domains, digests.hexdigests(), strict=True)
            },
            "n_rows": sum(count["n_rows"] for count in counts),
            "n_rejects": n_rejects,
            "n_excluded": n_excluded,
        }
        artifacts.write_json(aside / "summary.json", {**about, **totals.to_json()})
        index_files.write_listing(
            aside / "shards.json", job.shards, job.configs, job.config_of_shard
        )
    return open_index(folder)


def open_index(folder: Path) -> PoolIndex:
    """Open a finished index folder.

    Raises:
        ArtifactError: It is missing or unfinished.
    """
    artifacts.require(folder, made_by="cuvee label")
    summary = cast(dict[str, Any], artifacts.read_json(folder / "summary.json"))
    shards, configs = index_files.read_listing(folder / "shards.json")
    return PoolIndex(
        folder=folder,
        shards=shards,
        configs=configs,
        domains=tuple(summary["domains"]),
        sides=(summary["sides"][0], summary["sides"][1]),
        fingerprint=summary["fingerprint"],
        domain_fingerprints=summary.get("domain_fingerprints", {}),
        n_documents=_arrays(summary["n_documents"]),
        n_bytes=_arrays(summary["n_bytes"]),
        n_distinct_documents=_arrays(summary["n_distinct_documents"]),
        n_rows=summary["n_rows"],
        n_rejects=summary["n_rejects"],
        n_excluded=summary.get("n_excluded", 0),
    )


def _placed(job: IndexJob, counts: Sequence[ShardCounts]) -> Iterator[ScannedShard]:
    offset = 0
    for shard, count in zip(job.shards, counts, strict=True):
        yield ScannedShard(
            path=job.scan_folder / shard.name / index_files.DOCUMENTS,
            offset=offset,
            n_documents=count["n_documents"],
        )
        offset += count["n_documents"]


def _new_marks(path: Path, n_documents: int) -> npt.NDArray[np.uint8]:
    """Make one zero byte for each document, on disk."""
    path.write_bytes(b"")
    if n_documents == 0:
        return np.zeros(0, dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="w+", shape=(n_documents,))


def _exclude(job: IndexJob, scans: Sequence[ScannedShard], marks: npt.NDArray[np.uint8]) -> int:
    """Mark the documents that the configs leave out; return how many ids were found."""
    n_found = 0
    for number, settings in enumerate(job.configs):
        keys = read_excluded(settings)
        if not settings.exclude:
            continue
        found = np.zeros(len(keys), dtype=np.bool_)
        for scan, which in zip(scans, job.config_of_shard, strict=True):
            if which == number:
                found |= mark_excluded(scan, marks, keys)
        n_found += int(found.sum())
        if not found.all():
            logger.warning(
                "%s: %d of the %d ids to be left out are of no document",
                _who(job, number),
                len(keys) - int(found.sum()),
                len(keys),
            )
    return n_found


def _divider(
    job: IndexJob,
    scans: Sequence[ScannedShard],
    marks: npt.NDArray[np.uint8],
    codes: dict[str, int],
) -> Callable[[KeyArray], BoolArray]:
    """Make the function that tells which groups are held out."""
    if job.kind == "targets":
        return partial(assign_half, seed=job.seed)
    share = job.configs[0].validation_share
    last_resort = LastResort(len(codes), seed=job.seed, validation_share=share)
    for scan in scans if share > 0 else ():
        position = scan.offset
        for part in duplicates.read_columns(scan.path, ("domain", "group_key"), codes):
            used = is_used(marks[position : position + len(part["domain"])])
            position += len(part["domain"])
            last_resort.add(part["domain"][used], part["group_key"][used])
    extra = last_resort.groups()

    def held_out(group_keys: KeyArray) -> BoolArray:
        side = assign_side(group_keys, seed=job.seed, validation_share=share)
        return side | np.isin(group_keys, extra)

    return held_out


def _check_rejects(
    job: IndexJob, counts: Sequence[ShardCounts], n_duplicates: Sequence[int], rejects: Path
) -> None:
    """Refuse a pool, or a target set, of which too many rows are rejected.

    Where ids are made from content, a second document of the same content is no fault.
    """
    for number, settings in enumerate(job.configs):
        own = [index for index, which in enumerate(job.config_of_shard) if which == number]
        n_rows = sum(counts[index]["n_rows"] for index in own)
        n_rejects = sum(counts[index]["n_rejects"] for index in own)
        for index in own:
            if counts[index]["n_made_ids"] < counts[index]["n_documents"]:
                n_rejects += n_duplicates[index]
        if n_rejects > settings.max_reject_share * n_rows:
            found = shutil.copyfile(rejects, rejects.parent.parent / rejects.name)
            raise DataError(
                f"{_who(job, number)}: {n_rejects} of {n_rows} rows were rejected "
                f"({n_rejects / n_rows:.2%}); at most {settings.max_reject_share:.2%} are allowed "
                f"(max_reject_share). Each is listed in {found} with its reason. Repair the rows, "
                "or raise max_reject_share."
            )


def _check_domains(job: IndexJob, domains: Sequence[str], totals: Totals) -> None:
    if not domains and job.kind == "pool":
        raise DataError(
            f"the pool has no documents: none in {len(job.shards)} shards. Give it documents."
        )
    for settings in job.configs:
        unknown = sorted(set(settings.available_tokens) - set(domains))
        if unknown:
            raise ConfigError(
                f"available_tokens names the domain {unknown[0]!r}, which the pool does not have; "
                f"its domains are {', '.join(domains)}. Correct the name."
            )
    first, second = totals.n_documents[FIRST_SIDE], totals.n_documents[HELD_OUT]
    by_name = {name: (int(first[code]), int(second[code])) for code, name in enumerate(domains)}
    if job.kind == "targets":
        for name in sorted({shard.domain or "" for shard in job.shards}):
            n_search, n_verdict = by_name.get(name, (0, 0))
            if not n_search or not n_verdict:
                raise DataError(
                    f"target {name!r} has {n_search} documents in its search half and {n_verdict} "
                    "in its verdict half; each half needs some. Give it more documents."
                )
    elif job.configs[0].validation_share > 0:
        for name in (name for name, counts in by_name.items() if not counts[1]):
            logger.warning("domain %r has no validation documents; give it more groups", name)


def _who(job: IndexJob, number: int) -> str:
    if job.kind == "pool":
        return "pool"
    return f"target {job.shards[job.config_of_shard.index(number)].domain!r}"


def _arrays(by_side: Mapping[str, Sequence[int]]) -> dict[str, IntArray]:
    return {side: np.asarray(counts, dtype=np.int64) for side, counts in by_side.items()}
