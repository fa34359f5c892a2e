"""Hugging Face datasets: Parquet, a dataset card that names every set, and a loader.

Source: datasets, `interleave_datasets`: its probabilities count examples, not tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cuvee import artifacts
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
from cuvee.config import to_yaml
from cuvee.export.exporter import (
    Content,
    ExportConfig,
    FileSet,
    Layout,
    Place,
    by_phase,
    document_shares,
    phase_suffix,
)
from cuvee.export.sets import MIXED
from cuvee.export.text_files import PARQUET, ParquetFiles, text_lengths

_CARD = """---
{head}---
# A selection of cuvee

One row a copy of a document. `{whole}` holds everything once; read to its end, it gives the
token shares of `export.json`, counted with `tokenizer/tokenizer.json` and one end-of-text a row.
The other configurations are the sets that `load.py` interleaves. `lineage.parquet` says where each
row stands, `domains.json` which domains each set holds.

| configuration | rows | tokens | share of tokens | share of rows |
|---|---|---|---|---|
{rows}
"""
_SNIPPET = '''"""Load the sets and interleave them; an epoch holds every row once."""

from datasets import interleave_datasets, load_dataset

PROBABILITIES = {shares}
"""Shares of rows: those of tokens divided by the mean tokens of a row."""


def load(root={root!r}, *, seed=0, streaming=True):
    """Return the mixture, set by set drawn at random until the last one is empty."""
    sets = [
        load_dataset(root, name, split="train", streaming=streaming) for name in PROBABILITIES
    ]
    if len(sets) == 1:
        return sets[0]
    return interleave_datasets(
        sets,
        probabilities=list(PROBABILITIES.values()),
        seed=seed,
        stopping_strategy="all_exhausted_without_replacement",
    )
'''


@dataclass(frozen=True, slots=True)
class HuggingFace:
    """A configuration a set, and one of everything."""

    name: str = "huggingface"
    title: str = "Hugging Face datasets"
    content: Content = "text"
    layouts: tuple[Layout, ...] = ("domains", "mixed")
    max_sets: int | None = None

    def smallest(self, config: ExportConfig) -> int:
        """Any row is read."""
        return 1

    def check(self, place: Place) -> None:
        """Take any path."""

    @contextmanager
    def writer(self, folder: Path, files: FileSet, place: Place) -> Iterator[ParquetFiles]:
        """Write ``data/<set>/part-*.parquet``."""
        with closing(ParquetFiles(folder, files, place)) as writer:
            yield writer

    def describe(self, folder: Path, sets: Sequence[FileSet], place: Place) -> Mapping[str, Json]:
        """Write the card, ``README.md``, and ``load.py``."""
        whole = sets[0].name if len(sets) == 1 else MIXED
        configs: list[Json] = [
            {"config_name": one.name, "data_files": f"data/{one.name}/*{PARQUET}"} for one in sets
        ]
        if len(sets) > 1:
            everything: Json = {"config_name": MIXED, "data_files": f"data/*/*{PARQUET}"}
            configs = [everything, *configs]
        total_tokens = sum(one.n_tokens for one in sets)
        total_rows = sum(one.n_documents for one in sets)
        rows = [
            f"| `{one.name}` | {one.n_documents} | {one.n_tokens} "
            f"| {one.n_tokens / total_tokens:.6f} | {one.n_documents / total_rows:.6f} |"
            for one in sets
        ]
        head = to_yaml({"configs": configs})
        card = _CARD.format(head=head, whole=whole, rows="\n".join(rows))
        artifacts.write_text(folder / "README.md", card)
        for phase, own in enumerate(by_phase(sets, place)):
            names = [one.name for one in own]
            shares = dict(zip(names, document_shares(own), strict=True))
            text = _SNIPPET.format(shares=shares, root=place.root)
            artifacts.write_text(folder / f"load{phase_suffix(phase, place)}.py", text)
        return {"usage": f"load_dataset({place.root!r}, {whole!r}, split='train')"}

    def lengths(self, folder: Path, files: FileSet, place: Place) -> Iterator[IntArray]:
        """Read all files again."""
        yield from text_lengths(folder, files, PARQUET)
