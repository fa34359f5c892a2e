"""One trainer config for each proxy run: the design's mixtures in the words of other trainers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cuvee import artifacts
from cuvee.arrays import BoolArray, FloatArray, IntArray
from cuvee.artifacts import Json
from cuvee.config import to_yaml
from cuvee.errors import ConfigError
from cuvee.export import llama_factory, megatron, nanotron, olmo, torchtitan
from cuvee.simplex import normalise

_MARGIN = 1.05
"""Repetition allowed beyond what is planned: the trainer's tokenizer may count otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainerSweep:
    """What all runs of a sweep share."""

    domains: tuple[str, ...]
    files: tuple[str, ...]
    """(n_domains,) names that are safe in paths and in configs."""
    paths: tuple[str, ...]
    """(n_domains,) where the trainer finds each domain's data."""
    n_tokens: int
    """Of a run."""
    context: int
    """Tokens of a sequence."""
    batch_tokens: int
    """Tokens of a training step."""
    phases: tuple[float, ...]
    """(n_phases,) shares of a run's tokens."""
    available_tokens: IntArray
    """(n_domains,) of the real pool."""
    document_tokens: FloatArray
    """(n_domains,) mean tokens of a document, for trainers that draw documents."""
    fraction: float
    """Part of each domain that a run is to draw from, so that it repeats as the target run will."""
    tokenizer: str
    """Path of the tokenizer's folder."""
    vocabulary_size: int
    folder: str
    """Where the configs stand."""

    def __post_init__(self) -> None:
        for name, path in zip(self.domains, self.paths, strict=True):
            if any(char.isspace() or char in "*?[" for char in path):
                raise ConfigError(
                    f"the data of domain {name!r} stands at {path!r}, which holds white space, *, "
                    "? or [; trainers split or expand that. Choose another --root or --data."
                )

    @property
    def phase_tokens(self) -> FloatArray:
        """(n_phases,) tokens of each phase."""
        return np.asarray(self.n_tokens * np.asarray(self.phases), dtype=np.float64)

    def steps(self) -> list[int]:
        """Return the (n_phases,) training steps at which phases begin, from 1."""
        before = np.cumsum([0.0, *self.phase_tokens[:-1]])
        return [1 + round(tokens / self.batch_tokens) for tokens in before.tolist()]


Write = Callable[[Path, FloatArray, TrainerSweep], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainer:
    """How one trainer is told a mixture."""

    title: str
    unit: str
    """What its weights are shares of."""
    write: Write
    """Writes a run's files: its folder, its (n_phases, n_domains) weights, the sweep."""
    usage: str
    """How a run's files are used; RUN stands for its folder."""
    notes: tuple[str, ...] = ()
    """What the config does not say to the trainer."""
    matches_repetition: bool = False
    """The config limits what a run draws from."""


def drawn_weights(weights: FloatArray, sweep: TrainerSweep) -> tuple[FloatArray, BoolArray]:
    """Leave out what no trainer would draw: less than one sequence of a domain in a phase.

    Trainers refuse weights of 0 and never reach a domain of less than a sequence, so that it has
    to be left out of the mixture that is fitted, too.

    Args:
        weights: (n_phases, n_domains) token shares; rows sum to 1.
        sweep: Tokens and context.

    Returns:
        The (n_phases, n_domains) weights of what remains, rows summing to 1, and which were above 0
        and left out.

    Raises:
        ConfigError: Nothing remains of a phase.
    """
    kept = weights * sweep.phase_tokens[:, None] >= sweep.context
    if not kept.any(axis=1).all():
        raise ConfigError(
            f"a phase of {int(sweep.phase_tokens.min()):,} tokens gives no domain a sequence of "
            f"{sweep.context:,} tokens. Raise proxy.n_tokens or lower proxy.context."
        )
    drawn = np.stack([normalise(row) for row in np.where(kept, weights, 0.0)])
    return drawn, (weights > 0.0) & ~kept


def trainer_of(name: str) -> Trainer:
    """Return a trainer.

    Raises:
        ConfigError: There is none of that name.
    """
    try:
        return TRAINERS[name]
    except KeyError as error:
        raise ConfigError(
            f"there are no run configs for {name!r}; --to takes one of {', '.join(TRAINERS)}."
        ) from error


def write_shared(folder: Path, name: str, sweep: TrainerSweep) -> None:
    """Write what the runs of a sweep share: LLaMA-Factory's list of data sets."""
    if name != "llama-factory":
        return
    listed: dict[str, Json] = {
        file: {"file_name": path, "columns": {"prompt": "text"}}
        for file, path in zip(sweep.files, sweep.paths, strict=True)
    }
    artifacts.write_json(folder / "dataset_info.json", listed)


def _megatron(folder: Path, weights: FloatArray, sweep: TrainerSweep) -> None:
    for row, suffix in _phases(weights):
        pairs = megatron.blend(row[row > 0.0].tolist(), _of(row, sweep.paths))
        artifacts.write_text(folder / f"blend{suffix}.txt", " ".join(pairs) + "\n")
    own = [f"--seq-length {sweep.context}", f"--train-samples {sweep.n_tokens // sweep.context}"]
    artifacts.write_text(folder / "arguments.txt", " ".join(own) + "\n")


def _olmo(folder: Path, weights: FloatArray, sweep: TrainerSweep) -> None:
    for (row, suffix), n_tokens in zip(_phases(weights), sweep.phase_tokens, strict=True):
        supply = sweep.available_tokens * sweep.fraction
        times = np.maximum(1.0, np.ceil(100.0 * _MARGIN * row * n_tokens / supply) / 100.0)
        columns = (sweep.files, row.tolist(), sweep.paths, times.tolist())
        sources: list[Json] = [
            olmo.source(
                name,
                share,
                [path if path.endswith(".npy") else f"{path}/*.npy"],
                repetition=repetition,
                fraction=sweep.fraction,
            )
            for name, share, path, repetition in zip(*columns, strict=True)
            if share > 0.0
        ]
        artifacts.write_text(folder / f"source_mixture{suffix}.yaml", to_yaml({"sources": sources}))


def _nanotron(folder: Path, weights: FloatArray, sweep: TrainerSweep) -> None:
    stages: list[Json] = [
        nanotron.data_stage(
            phase,
            step,
            folders=_of(row, sweep.paths),
            shares=row[row > 0.0].tolist(),
            tokenizer=sweep.tokenizer,
            vocabulary_size=sweep.vocabulary_size,
        )
        for phase, (row, step) in enumerate(zip(weights, sweep.steps(), strict=True))
    ]
    artifacts.write_text(folder / "data_stages.yaml", to_yaml({"data_stages": stages}))


def _llama_factory(folder: Path, weights: FloatArray, sweep: TrainerSweep) -> None:
    for row, suffix in _phases(weights):
        rows = row / sweep.document_tokens
        settings = llama_factory.training_settings(
            sweep.folder,
            _of(row, sweep.files),
            (rows[row > 0.0] / rows.sum()).tolist(),
            strategy="interleave_over",
            context=sweep.context,
        )
        artifacts.write_text(folder / f"train{suffix}.yaml", to_yaml(settings))


def _torchtitan(folder: Path, weights: FloatArray, sweep: TrainerSweep) -> None:
    for row, suffix in _phases(weights):
        names = _of(row, sweep.files)
        folders = dict(zip(names, _of(row, sweep.paths), strict=True))
        shares = dict(zip(names, row[row > 0.0].tolist(), strict=True))
        artifacts.write_text(folder / f"dataloader{suffix}.py", torchtitan.recipe(folders, shares))


def _phases(weights: FloatArray) -> list[tuple[FloatArray, str]]:
    """Return each phase's weights, and what ends the name of its file."""
    several = len(weights) > 1
    return [
        (row, f"-phase-{number}" if several else "") for number, row in enumerate(weights, start=1)
    ]


def _of(row: FloatArray, names: Sequence[str]) -> list[str]:
    """Return the names of the domains that have weight."""
    return [name for name, share in zip(names, row.tolist(), strict=True) if share > 0.0]


TRAINERS: Mapping[str, Trainer] = MappingProxyType(
    {
        "megatron": Trainer(
            title=megatron.Megatron().title,
            unit="samples of one sequence, which is tokens",
            write=_megatron,
            usage="--data-args-path RUN/blend.txt and the arguments of RUN/arguments.txt",
        ),
        "olmo": Trainer(
            title=olmo.Olmo().title,
            unit="tokens",
            write=_olmo,
            usage="SourceMixtureList.from_yaml('RUN/source_mixture.yaml'), with the tokens of a "
            "run as requested_tokens",
            matches_repetition=True,
        ),
        "nanotron": Trainer(
            title=nanotron.Nanotron().title,
            unit="samples of one sequence, which is tokens",
            write=_nanotron,
            usage="data_stages of RUN/data_stages.yaml in the training config",
        ),
        "torchtitan": Trainer(
            title=torchtitan.Torchtitan().title,
            unit="packed rows of one sequence, which is tokens",
            write=_torchtitan,
            usage="dataloader of RUN/dataloader.py",
        ),
        "llama-factory": Trainer(
            title=llama_factory.LlamaFactory().title,
            unit="documents: token shares over the mean tokens of a document, rescaled",
            write=_llama_factory,
            usage="the settings of RUN/train.yaml in the training config",
            notes=(
                "LLaMA-Factory draws documents: shares were converted by the mean tokens of a "
                "document of each domain, as the pool's tokenizer counts them",
            ),
        ),
    }
)
"""Trainers by name."""
