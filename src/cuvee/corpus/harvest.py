"""A real pool out of the text that every machine with Python already holds.

The standard library and the installed packages carry a dozen kinds of text in skewed amounts.
They are read as files: nothing harvested is imported or run. Which files are taken follows from a
hash of their path, so one environment always gives the same pool, byte for byte.

Two target sets are held out whole (modules of the standard library, topics of the language
reference), and documents of the pool that share a long paragraph with them are dropped.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from cuvee import artifacts
from cuvee.arrays import KeyArray
from cuvee.artifacts import Json
from cuvee.corpus import installation
from cuvee.corpus.installation import Installation, InstalledFile
from cuvee.errors import ArtifactError, DataError
from cuvee.randomness import document_keys, hash64

logger = logging.getLogger(__name__)

SHARES: Mapping[str, float] = {
    "code_python": 0.27,
    "code_python_tests": 0.22,
    "docstrings": 0.17,
    "c_headers": 0.12,
    "type_stubs": 0.06,
    "code_cython": 0.04,
    "data_files": 0.03,
    "web": 0.03,
    "package_docs": 0.02,
    "licences": 0.02,
    "package_readmes": 0.01,
    "language_reference": 0.01,
}
"""Domains, each with the share of ``max_bytes`` at which it is cut off; chosen to be skewed."""

HELD_OUT_CODE = 0.06
"""Share of the standard library's bytes that becomes the target ``code``."""
HELD_OUT_TOPICS = 0.4
"""Share of the language reference's bytes that becomes the target ``reference_prose``."""
MIN_DOMAIN_SHARE = 0.001
"""A domain with less text than this share of ``max_bytes`` is left out."""
MIN_DOCUMENTS = 8
"""A target with fewer documents cannot be halved into search and verdict."""
MIN_DOCUMENT_BYTES = 200
"""Shorter files are mostly empty ``__init__`` files and markers."""
BARRED_PARAGRAPH = 120
"""A document of the pool sharing a paragraph of so many characters with a target is dropped."""
_ROW_GROUP = 256
_NEARLY = 0.97  # a domain this full is full: no search for the file that fits the rest
_JSONL_DOMAINS = frozenset({"licences", "package_readmes"})


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSet:
    """One domain or target as written."""

    name: str
    file: str
    """Path relative to the harvest's folder."""
    n_documents: int
    n_bytes: int
    """UTF-8 bytes of text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HarvestSummary:
    """What a harvest holds."""

    domains: tuple[TextSet, ...]
    targets: tuple[TextSet, ...]
    skipped: tuple[str, ...]
    """Domains for which this machine holds too little text."""
    max_bytes: int
    python: str
    """Version of the interpreter whose files were read."""

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of the whole pool."""
        return sum(domain.n_bytes for domain in self.domains)

    def __str__(self) -> str:
        """Say in a line what was gathered."""
        target_bytes = sum(target.n_bytes for target in self.targets)
        left_out = f"; too little text for {', '.join(self.skipped)}" if self.skipped else ""
        return (
            f"gathered from Python {self.python} on this machine: {len(self.domains)} domains, "
            f"{self.n_bytes / 1e6:.1f} MB; {len(self.targets)} target sets, "
            f"{target_bytes / 1e6:.1f} MB{left_out}"
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the summary of a finished harvest.

        Raises:
            ArtifactError: The folder is not a finished harvest.
        """
        plain = cast(
            dict[str, list[dict[str, str | int]]], artifacts.read_json(folder / "summary.json")
        )
        sets = {
            kind: tuple(
                TextSet(
                    name=str(one["name"]),
                    file=str(one["file"]),
                    n_documents=int(one["n_documents"]),
                    n_bytes=int(one["n_bytes"]),
                )
                for one in plain[kind]
            )
            for kind in ("domains", "targets")
        }
        return cls(
            domains=sets["domains"],
            targets=sets["targets"],
            skipped=tuple(str(name) for name in plain["skipped"]),
            max_bytes=cast(int, plain["max_bytes"]),
            python=cast(str, plain["python"]),
        )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A document not read yet."""

    id: str
    group: str
    read: Callable[[], str | None]


@dataclass(slots=True)
class _Rows:
    """Documents read, as columns."""

    ids: list[str]
    texts: list[str]
    groups: list[str]
    n_bytes: int = 0


def harvest(
    out: Path, *, max_bytes: int = 40_000_000, source: Installation | None = None
) -> HarvestSummary:
    """Write a pool and two target sets out of a Python installation's own files.

    Below ``out``: ``pool/<domain>.parquet`` (two domains as ``.jsonl.zst``) and
    ``targets/<name>.parquet``, all with string fields ``id``, ``text``, ``domain``, ``group``. A
    finished harvest is kept as it is, even when packages were installed since.

    Args:
        out: The folder to write; appears when complete.
        max_bytes: Upper bound on the pool's text; domains are cut off at their `SHARES` of it.
        source: Where to look; this interpreter's own installation by default.

    Returns:
        Documents and bytes by domain and target, and the domains left out.

    Raises:
        ArtifactError: ``out`` holds something else, or a harvest with another ``max_bytes``.
        DataError: Nothing was found for a target or for all domains but one.
    """
    if artifacts.is_done(out):
        return _finished(out, max_bytes)
    place = source or Installation.of_this_python()
    target_candidates, pool_candidates = _divide(place)
    seen: set[bytes] = set()
    targets = {
        name: _read(candidates, seen=seen, barred=frozenset(), max_bytes=max_bytes)
        for name, candidates in target_candidates.items()
    }
    barred = frozenset(_long_paragraphs(text for rows in targets.values() for text in rows.texts))
    settings: Json = {"max_bytes": max_bytes, "python": place.python}
    with artifacts.writing(out, stage="harvest", settings=settings, seed=0, inputs={}) as aside:
        domains: list[TextSet] = []
        for name, share in SHARES.items():
            limit = int(share * max_bytes)
            rows = _read(pool_candidates[name], seen=seen, barred=barred, max_bytes=limit)
            if rows.n_bytes >= MIN_DOMAIN_SHARE * max_bytes:
                domains.append(_write(aside, "pool", name, rows))
        summary = HarvestSummary(
            domains=tuple(domains),
            targets=tuple(_write(aside, "targets", name, rows) for name, rows in targets.items()),
            skipped=tuple(sorted(SHARES.keys() - {domain.name for domain in domains})),
            max_bytes=max_bytes,
            python=place.python,
        )
        _check(summary, place)
        artifacts.write_json(aside / "summary.json", cast(Json, asdict(summary)))
    logger.info("harvested %.1f MB in %d domains", summary.n_bytes / 1e6, len(summary.domains))
    return summary


def _finished(out: Path, max_bytes: int) -> HarvestSummary:
    summary = HarvestSummary.read(out)
    if summary.max_bytes != max_bytes:
        raise ArtifactError(
            f"{out} was harvested with max_bytes {summary.max_bytes}, now {max_bytes} is asked "
            "for. Choose another folder, or delete it to harvest again."
        )
    return summary


def _check(summary: HarvestSummary, place: Installation) -> None:
    for name in summary.skipped:
        logger.info("domain %s left out: this machine holds too little of it", name)
    empty = [target.name for target in summary.targets if target.n_documents < MIN_DOCUMENTS]
    if empty or len(summary.domains) < 2:
        raise DataError(
            f"{place.stdlib} and its packages hold {len(summary.domains)} domains of text and too "
            f"little for the targets {empty or 'none'}; at least 2 domains and {MIN_DOCUMENTS} "
            "documents a target are needed. Give folders of your own text instead."
        )


def _divide(
    place: Installation,
) -> tuple[dict[str, list[_Candidate]], dict[str, list[_Candidate]]]:
    """Hold whole modules and groups of topics out as targets; all else may enter the pool."""
    files = installation.files_by_domain(place)
    topics = installation.reference_topics(place)
    code = files.pop("code_python")
    modules = _hold_out([(file.top_level, file.n_bytes) for file in code], HELD_OUT_CODE)
    groups = _hold_out([(group, len(text)) for group, text in topics.values()], HELD_OUT_TOPICS)
    held = [file for file in code if file.top_level in modules]
    prose = [
        _Candidate(f"topics/{name}", f"topics/{group}", partial(str, text))
        for name, (group, text) in topics.items()
    ]
    held_prose = [topic for topic in prose if topic.group.removeprefix("topics/") in groups]
    targets = {
        "code": [_of_file(file, installation.read_text, group=file.top_level) for file in held],
        "reference_prose": held_prose
        + [_of_file(file, installation.read_docstrings, group=file.top_level) for file in held],
    }
    pool = {
        domain: [_of_file(file, installation.read_text) for file in found]
        for domain, found in files.items()
        if domain != "docstrings"
    }
    pool["code_python"] = [
        _of_file(file, installation.read_text) for file in code if file.top_level not in modules
    ]
    pool["docstrings"] = [
        _of_file(file, installation.read_docstrings) for file in files.get("docstrings", ())
    ]
    pool["language_reference"] = [topic for topic in prose if topic not in held_prose]
    pool["package_readmes"] = [
        _Candidate(f"metadata/{name}", name, partial(str, text))
        for name, text in installation.long_descriptions(place).items()
    ]
    return targets, {name: pool.get(name, []) for name in SHARES}


def _of_file(
    file: InstalledFile, read: Callable[[InstalledFile], str | None], *, group: str | None = None
) -> _Candidate:
    return _Candidate(file.id, group or file.id, partial(read, file))


def _hold_out(units: Sequence[tuple[str, int]], share: float) -> frozenset[str]:
    """Choose whole units in hash order up to a share of all bytes.

    Units above a quarter of that quota are passed over: one package must not be the whole target.
    """
    sizes: dict[str, int] = {}
    for name, size in units:
        sizes[name] = sizes.get(name, 0) + size
    quota = share * sum(sizes.values())
    held: list[str] = []
    taken = 0
    for name in _hash_order(list(sizes)):
        if sizes[name] <= min(quota / 4, quota - taken):
            held.append(name)
            taken += sizes[name]
    return frozenset(held)


def _read(
    candidates: Iterable[_Candidate],
    *,
    seen: set[bytes],
    barred: frozenset[bytes],
    max_bytes: int,
) -> _Rows:
    """Read documents in hash order until the bound is reached.

    Left out: documents below `MIN_DOCUMENT_BYTES`, exact copies of documents in ``seen`` (to which
    the texts read are added), and documents with a paragraph in ``barred``.
    """
    by_id = {candidate.id: candidate for candidate in candidates}
    rows = _Rows([], [], [])
    for name in _hash_order(list(by_id)):
        if rows.n_bytes >= _NEARLY * max_bytes:
            break
        text = by_id[name].read()
        n_bytes = len(text.encode("utf-8")) if text is not None else 0
        if text is None or n_bytes < MIN_DOCUMENT_BYTES or rows.n_bytes + n_bytes > max_bytes:
            continue
        digest = _digest(text)
        if digest in seen or (barred and not barred.isdisjoint(_long_paragraphs([text]))):
            continue
        seen.add(digest)
        rows.ids.append(name)
        rows.texts.append(text)
        rows.groups.append(by_id[name].group)
        rows.n_bytes += n_bytes
    return rows


def _write(folder: Path, kind: str, name: str, rows: _Rows) -> TextSet:
    suffix = ".jsonl.zst" if name in _JSONL_DOMAINS else ".parquet"
    file = f"{kind}/{name}{suffix}"
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    columns = {
        "id": rows.ids,
        "text": rows.texts,
        "domain": [name] * len(rows.ids),
        "group": rows.groups,
    }
    if name in _JSONL_DOMAINS:
        lines = (
            json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n"
            for row in zip(*columns.values(), strict=True)
        )
        path.write_bytes(zstandard.ZstdCompressor().compress("".join(lines).encode("utf-8")))
    else:
        pq.write_table(pa.table(columns), path, compression="zstd", row_group_size=_ROW_GROUP)
    return TextSet(name=name, file=file, n_documents=len(rows.ids), n_bytes=rows.n_bytes)


def _hash_order(names: Sequence[str]) -> list[str]:
    """Order names by a hash of each: the same subset on every machine that holds the same files."""
    return [names[position] for position in np.argsort(_keys(names), kind="stable")]


def _keys(names: Sequence[str]) -> KeyArray:
    return hash64(0, "sample", document_keys(names))


def _long_paragraphs(texts: Iterable[str]) -> Iterator[bytes]:
    for text in texts:
        for paragraph in installation.paragraphs(text, min_length=BARRED_PARAGRAPH):
            yield _digest(paragraph)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
