"""OLMo-core: raw ``.npy`` tokens with ``.csv.gz`` of document bounds, and a source mixture.

Source: OLMo-core, src/olmo_core/data/source_mixture.py and src/olmo_core/data/utils.py.
"""

import gzip
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuvee import artifacts
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.config import to_yaml
from cuvee.errors import DataError
from cuvee.export.cutting import TokenFiles, files_of, read_files, unread_note
from cuvee.export.exporter import (
    Content,
    ExportConfig,
    FileSet,
    Layout,
    Place,
    by_phase,
    phase_suffix,
    refuse_pattern,
    token_shares,
)
from cuvee.export.tokens_file import document_lengths


@dataclass(frozen=True, slots=True)
class Olmo:
    """A folder of token files a set, and a YAML of sources and target ratios a phase."""

    name: str = "olmo"
    title: str = "OLMo-core"
    content: Content = "tokens"
    layouts: tuple[Layout, ...] = ("domains", "mixed")
    max_sets: int | None = None

    def smallest(self, config: ExportConfig) -> int:
        """A source gives whole sequences."""
        return config.context

    def check(self, place: Place) -> None:
        """Refuse what a path of a source may not hold: it would be taken for a pattern."""
        refuse_pattern(place, self.title)

    @contextmanager
    def writer(self, folder: Path, files: FileSet, place: Place) -> Iterator[TokenFiles]:
        """Write ``data/<set>/part-*.npy``, without NumPy's header, and ``.csv.gz``."""
        writer = TokenFiles(
            folder,
            f"data/{files.name}",
            suffix=".npy",
            dtype=place.dtype,
            file_bytes=place.config.file_bytes,
            on_close=_write_bounds,
        )
        with closing(writer):
            yield writer

    def describe(self, folder: Path, sets: Sequence[FileSet], place: Place) -> Mapping[str, Json]:
        """Write ``source_mixture.yaml``: documents are there once a copy."""
        requested: list[Json] = []
        for phase, own in enumerate(by_phase(sets, place)):
            sources: list[Json] = [
                source(
                    one.name,
                    share,
                    [
                        f"{place.root}/{path.relative_to(folder).as_posix()}"
                        for path in files_of(folder, f"data/{one.name}", ".npy")
                    ],
                )
                for one, share in zip(own, token_shares(own), strict=True)
            ]
            name = f"source_mixture{phase_suffix(phase, place)}.yaml"
            artifacts.write_text(folder / name, to_yaml({"sources": sources}))
            requested.append(_requested(own))
        name = f"source_mixture{phase_suffix(0, place)}.yaml"
        return {
            "dtype": place.dtype.name,
            "requested_tokens": requested,
            "usage": f"SourceMixtureList.from_yaml({f'{place.root}/{name}'!r}), "
            f"requested_tokens={requested[0]}",
            "notes": unread_note(folder, sets, ".npy", place.config.context * place.dtype.itemsize),
        }

    def lengths(self, folder: Path, files: FileSet, place: Place) -> Iterator[IntArray]:
        """Read tokens and bounds again; both must tell the same documents."""
        paths = files_of(folder, f"data/{files.name}", ".npy")
        bounds = np.concatenate([read_bounds(path) for path in paths])
        done = 0
        for found in document_lengths(read_files(paths, place.dtype), files, place):
            if not np.array_equal(bounds[done : done + len(found)], found):
                raise DataError(f"set {files.name!r} and its .csv.gz differ. Export again.")
            done += len(found)
            yield found


def source(
    name: str,
    share: float,
    paths: Sequence[str],
    *,
    repetition: float = 1.0,
    fraction: float = 1.0,
) -> dict[str, Json]:
    """Return one entry of a source mixture.

    Args:
        name: Of the source.
        share: Of the tokens, above 0; those of all sources sum to 1.
        paths: Files of tokens, or patterns of them.
        repetition: Times that what is taken of the source may be seen, at least 1.
        fraction: Part of the source that is taken, in (0, 1].
    """
    return {
        "source_name": name,
        "target_ratio": share,
        "paths": list(paths),
        "max_repetition_ratio": repetition,
        "max_source_fraction": fraction,
    }


def read_bounds(path: Path) -> IntArray:
    """Return the lengths of the documents of a file, from the bounds beside it."""
    with gzip.open(path.with_suffix(".csv.gz"), "rt", encoding="ascii") as file:
        bounds = np.loadtxt(file, dtype=np.int64, delimiter=",", ndmin=2)
    if np.any(bounds[1:, 0] != bounds[:-1, 1]) or bounds[0, 0] != 0:
        raise DataError(f"the bounds beside {path} do not follow each other. Export again.")
    lengths: IntArray = bounds[:, 1] - bounds[:, 0]
    return lengths


def _write_bounds(path: Path, lengths: IntArray) -> None:
    """Write ``start,end`` of each document; the same bytes whenever it is made."""
    ends = np.cumsum(lengths)
    lines = "".join(
        f"{start},{end}\n"
        for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)
    )
    content = gzip.compress(lines.encode("ascii"), compresslevel=6, mtime=0)
    path.with_suffix(".csv.gz").write_bytes(content)


def _requested(sets: Sequence[FileSet]) -> int:
    """Return the most tokens of which no source is asked for more than it has.

    OLMo-core asks each source for int(requested * ratio) tokens and refuses when that is more.
    """
    total = sum(one.n_tokens for one in sets)
    shares = token_shares(sets)
    while any(int(total * share) > one.n_tokens for one, share in zip(sets, shares, strict=True)):
        total -= 1
    return total
