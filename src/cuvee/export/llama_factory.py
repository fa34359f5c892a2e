"""LLaMA-Factory: JSON lines, ``dataset_info.json``, and the data part of a training config.

Its ``interleave_probs`` count examples, not tokens.

Source: LLaMA-Factory, data/README.md, src/llamafactory/hparams/data_args.py and data/loader.py.
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
from cuvee.export.text_files import JSONL, JsonLines, text_lengths

_PACKED_ROWS = 1000
"""LLaMA-Factory's default of ``preprocessing_batch_size``."""


@dataclass(frozen=True, slots=True)
class LlamaFactory:
    """A data set a set; mixed comes first, since without streaming LLaMA-Factory concatenates."""

    name: str = "llama-factory"
    title: str = "LLaMA-Factory"
    content: Content = "text"
    layouts: tuple[Layout, ...] = ("mixed", "domains")
    max_sets: int | None = None

    def smallest(self, config: ExportConfig) -> int:
        """Any row is read."""
        return 1

    def check(self, place: Place) -> None:
        """Take any path."""

    @contextmanager
    def writer(self, folder: Path, files: FileSet, place: Place) -> Iterator[JsonLines]:
        """Write ``data/<set>/part-*.jsonl``."""
        with closing(JsonLines(folder, files, place)) as writer:
            yield writer

    def describe(self, folder: Path, sets: Sequence[FileSet], place: Place) -> Mapping[str, Json]:
        """Write ``dataset_info.json`` and ``train.yaml``."""
        listed: dict[str, Json] = {
            one.name: {"file_name": f"data/{one.name}", "columns": {"prompt": "text"}}
            for one in sets
        }
        artifacts.write_json(folder / "dataset_info.json", listed)
        for phase, own in enumerate(by_phase(sets, place)):
            settings = training_settings(
                place.root,
                [one.name for one in own],
                document_shares(own),
                strategy="interleave_once",
                context=place.config.context,
            )
            name = f"train{phase_suffix(phase, place)}.yaml"
            artifacts.write_text(folder / name, to_yaml(settings))
        path = f"{place.root}/train{phase_suffix(0, place)}.yaml"
        return {
            "usage": f"the settings of {path} in the training config",
            "notes": [_unread_note(sets, place.config.context)],
        }

    def lengths(self, folder: Path, files: FileSet, place: Place) -> Iterator[IntArray]:
        """Read all files again."""
        yield from text_lengths(folder, files, JSONL)


def _unread_note(sets: Sequence[FileSet], context: int) -> str:
    """Say what packing leaves out, and how many steps a stream takes, which has no length."""
    n_tokens = sum(one.n_tokens for one in sets)
    n_batches = sum(-(-one.n_documents // _PACKED_ROWS) for one in sets)
    share = min(1.0, n_batches * (context - 1) / n_tokens)
    return (
        f"rows are packed {_PACKED_ROWS:,} at a time, less what does not fill a sequence: at most "
        f"{share:.4%} of tokens; all is {n_tokens // context:,} sequences (streams need max_steps)"
    )


def training_settings(
    folder: str, names: Sequence[str], shares: Sequence[float], *, strategy: str, context: int
) -> dict[str, Json]:
    """Return the data part of a training config.

    Args:
        folder: Where ``dataset_info.json`` stands.
        names: (n_sets,) names of the data sets in it.
        shares: (n_sets,) shares of rows; sum to 1.
        strategy: LLaMA-Factory's ``mix_strategy``, used where there are several.
        context: Tokens of a sequence.
    """
    settings: dict[str, Json] = {
        "stage": "pt",
        "dataset_dir": folder,
        "dataset": ",".join(names),
        "cutoff_len": context,
    }
    if len(names) > 1:
        settings |= {
            "mix_strategy": strategy,
            "interleave_probs": ",".join(f"{share:.17g}" for share in shares),
            "streaming": True,
            "dataloader_num_workers": 1,  # streams of files are cut into so many: of 0, nothing
        }
    return settings
