"""torchtitan: JSON lines, and a recipe that packs each set before it mixes them.

Mixed after packing, a row of every set holds as many tokens, so weights are shares of tokens.

Source: torchtitan, torchtitan/components/data (README.md, dataset.py, sources.py); release 0.3.0,
torchtitan/hf_datasets/text_datasets.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cuvee import artifacts
from cuvee.arrays import IntArray
from cuvee.artifacts import Json
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
from cuvee.export.text_files import JSONL, JsonLines, text_lengths

_SNIPPET = '''"""The sets, each packed into rows of tokens, then mixed by shares of tokens."""

FOLDERS = {folders}
WEIGHTS = {weights}

try:  # where torchtitan mixes with Grain
    from torchtitan.components.data import (
        ConcatThenSplitPackingConfig,
        DatasetMixConfig,
        GrainDataLoader,
        IndexedJsonlSource,
        SingleDatasetConfig,
        WeightedDataset,
    )
    from torchtitan.hf_datasets.text_datasets import TextProcessor
except ImportError:  # release 0.3
    from datasets import load_dataset
    from torchtitan.hf_datasets import DatasetConfig
    from torchtitan.hf_datasets.text_datasets import (
        DATASETS,
        HFDataSource,
        InterleavedHuggingFaceTextDataLoader,
    )

    def load(folder):
        """Return the documents of a set."""
        return load_dataset("json", data_files=f"{{folder}}/*.jsonl", split="train")

    def text(document):
        """Return what is trained on."""
        return document["text"]

    for name, folder in FOLDERS.items():
        DATASETS[name.lower()] = DatasetConfig(folder, load, text)

    dataloader = InterleavedHuggingFaceTextDataLoader.Config(
        sources=[
            HFDataSource(dataset=name.lower(), weight=weight) for name, weight in WEIGHTS.items()
        ]
    )
else:

    def packed(folder):
        """Return the packed rows of a set."""
        return ConcatThenSplitPackingConfig(
            dataset=SingleDatasetConfig(
                source=IndexedJsonlSource.Config(patterns=(f"{{folder}}/*.jsonl",)),
                processor=TextProcessor.Config(),
            )
        )

    dataloader = GrainDataLoader.Config(
        dataset=DatasetMixConfig(
            datasets=tuple(
                WeightedDataset(dataset=packed(FOLDERS[name]), weight=weight)
                for name, weight in WEIGHTS.items()
            )
        )
    )
'''


@dataclass(frozen=True, slots=True)
class Torchtitan:
    """A folder of JSON lines a set, and a Python recipe a phase."""

    name: str = "torchtitan"
    title: str = "torchtitan"
    content: Content = "text"
    layouts: tuple[Layout, ...] = ("domains", "mixed")
    max_sets: int | None = None

    def smallest(self, config: ExportConfig) -> int:
        """A set gives at least one row."""
        return config.context

    def check(self, place: Place) -> None:
        """Refuse what would be taken for a pattern."""
        refuse_pattern(place, self.title)

    @contextmanager
    def writer(self, folder: Path, files: FileSet, place: Place) -> Iterator[JsonLines]:
        """Write ``data/<set>/part-*.jsonl``."""
        with closing(JsonLines(folder, files, place)) as writer:
            yield writer

    def describe(self, folder: Path, sets: Sequence[FileSet], place: Place) -> Mapping[str, Json]:
        """Write ``dataloader.py``."""
        for phase, own in enumerate(by_phase(sets, place)):
            weights = dict(zip([one.name for one in own], token_shares(own), strict=True))
            folders = {name: f"{place.root}/data/{name}" for name in weights}
            text = recipe(folders, weights)
            artifacts.write_text(folder / f"dataloader{phase_suffix(phase, place)}.py", text)
        return {"usage": f"dataloader of {place.root}/dataloader{phase_suffix(0, place)}.py"}

    def lengths(self, folder: Path, files: FileSet, place: Place) -> Iterator[IntArray]:
        """Read all files again."""
        yield from text_lengths(folder, files, JSONL)


def recipe(folders: Mapping[str, str], weights: Mapping[str, float]) -> str:
    """Return the Python recipe of a mixture.

    Args:
        folders: Of JSON lines, by the set's name.
        weights: Token shares by the set's name.
    """
    return _SNIPPET.format(folders=dict(folders), weights=dict(weights))
