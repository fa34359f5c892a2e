"""What a run leaves behind, however it was trained."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.proxy.batches import EvaluationSet
from cuvee.proxy.sizes import model_size
from cuvee.proxy.spec import TrainingSpec, portable_spec
from cuvee.tables.runs import Trajectory, write_trajectory

SPIKE = 1.5
"""A training loss this many times the first, or an untrained model's, counts as divergence."""
RELAPSE = 1.0
"""So does a run whose last losses lie this many nats above its lowest, on average over a window."""
_RELAPSE_WINDOW = 20


class RunRecord:
    """One run's measurements, on their way to its folder."""

    def __init__(
        self,
        run: TrainingSpec,
        folder: Path,
        *,
        sets: Sequence[EvaluationSet],
        realised: FloatArray,
    ) -> None:
        """Begin a record.

        Args:
            run: What is trained.
            folder: Receives spec.json, result.json, trajectory.parquet, timing.json and checkpoints
                if asked for.
            sets: What it is measured on.
            realised: (n_phases * n_domains,) token shares that the run really has.
        """
        self.run = run
        self.diverged = False
        self.untrained: str | None = None
        """Why it could not be trained; such a run has no losses."""
        self._folder = folder
        self._sets = sets
        self._realised = realised
        self._measured: list[tuple[int, FloatArray]] = []

    def measured(self, n_tokens: int, losses: Sequence[float], state: Mapping[str, Tensor]) -> None:
        """Add a point of the trajectory.

        Args:
            n_tokens: Tokens trained on so far.
            losses: (n_sets,) nats per token.
            state: The model's parameters, kept where every checkpoint is.
        """
        self._measured.append((n_tokens, np.array(losses)))
        if self.run.checkpoints == "every":
            self._save(state, f"model-{n_tokens:015d}.safetensors")

    def write(
        self,
        losses: Sequence[float],
        state: Mapping[str, Tensor],
        timing: Mapping[str, float],
        *,
        accuracy: Mapping[str, Json],
    ) -> None:
        """Write the run's files.

        Args:
            losses: (n_steps,) training losses in nats per token; the last may be NaN.
            state: The model's parameters at the end.
            timing: What depends on the clock.
            accuracy: Of each task (`accuracy.measure_accuracy`); recorded where there is any.
        """
        run = self.run
        artifacts.write_json(self._folder / "spec.json", portable_spec(run))
        artifacts.write_json(
            self._folder / "result.json",
            {
                "diverged": self.diverged or relapsed(losses) or self.untrained is not None,
                **({"untrained": self.untrained} if self.untrained else {}),
                "n_tokens": run.n_sequences * run.context,
                "n_parameters": model_size(run.size).n_parameters,
                "columns": list(run.mixture.column_names),
                "weights": dict(
                    zip(run.mixture.column_names, self._realised.tolist(), strict=True)
                ),
                "sets": [one.name for one in self._sets],
                "tokens_per_byte": {one.name: one.tokens_per_byte for one in self._sets},
                "training_losses": [loss if math.isfinite(loss) else None for loss in losses],
                **({"accuracy": dict(accuracy)} if accuracy else {}),
            },
        )
        write_trajectory(self._folder / "trajectory.parquet", self._trajectory())
        if run.checkpoints == "final" and self.untrained is None:
            self._save(state, "model.safetensors")
        artifacts.write_json(self._folder / artifacts.TIMING, timing)

    def _trajectory(self) -> Trajectory:
        losses = np.array([row for _, row in self._measured]).reshape(-1, len(self._sets))
        ratio = np.array([one.tokens_per_byte for one in self._sets])
        return Trajectory(
            n_tokens=np.array([n_tokens for n_tokens, _ in self._measured], dtype=np.int64),
            targets=tuple(one.name for one in self._sets),
            losses=losses,
            losses_bpb=losses * ratio / math.log(2.0),
        )

    def _save(self, state: Mapping[str, Tensor], name: str) -> None:
        whole = {key: value.contiguous().cpu() for key, value in state.items()}
        save_file(whole, self._folder / name)


def input_digests(run: TrainingSpec) -> dict[str, str]:
    """Return the digests of what a run reads, by name."""
    inputs = {"pool": artifacts.digest_of(Path(run.pool))}
    if run.targets:
        inputs["targets"] = artifacts.digest_of(Path(run.targets))
    if run.quality:
        inputs["quality"] = artifacts.digest_file(Path(run.quality))
    if run.copies:
        inputs["copies"] = artifacts.digest_file(Path(run.copies))
    if run.base:
        inputs["base"] = artifacts.digest_file(Path(run.base))
    return inputs


def measured_steps(run: TrainingSpec) -> list[int]:
    """Return the steps after which a run is measured, rising; 0 is before the first."""
    n_steps = -(-run.n_sequences // run.batch_sequences)
    return [max(1, round(point * n_steps)) if point > 0 else 0 for point in run.points]


def relapsed(losses: Sequence[float]) -> bool:
    """Tell whether a run lost what it had learnt: a spike it has not recovered from.

    Args:
        losses: (n_steps,) training losses in nats per token; domains are spread evenly over a run,
            so that means over a window can be compared.
    """
    n_windows = len(losses) // _RELAPSE_WINDOW
    if n_windows < 2:
        return False
    whole = np.array(losses[len(losses) - n_windows * _RELAPSE_WINDOW :])
    means = whole.reshape(n_windows, _RELAPSE_WINDOW).mean(axis=1)
    return bool(means[-1] > means.min() + RELAPSE)
