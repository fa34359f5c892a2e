"""The study of a mixing-laws run: its losses by size, where they lead, and how that held."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import cast

import numpy as np

from cuvee import artifacts, config
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import DataError
from cuvee.fit.crossval import rank_correlation
from cuvee.fit.nesting import Extrapolation, HeldOutSize
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.proxy.sizes import model_size
from cuvee.tables.runs import Runs, read_trajectory
from cuvee.tables.study import Study, read_study, write_study

NORMAL_90 = 1.6448536269514722
_STUDY = "study.parquet"
_SCALING = "scaling.json"
_CHECKS = "checks.json"


def of_size(runs: Runs, sizes: Sequence[str], size: str) -> Runs:
    """Return one size's runs under their mixtures' names.

    A mixture counts as diverged where any of its sizes did: the laws need them all.
    """
    rows = [row for row, name in enumerate(runs.run_ids) if name.endswith(f"-{size}")]
    ids = tuple(runs.run_ids[row].removesuffix(f"-{size}") for row in rows)
    diverged = [
        any(bool(runs.diverged[runs.run_ids.index(f"{one}-{other}")]) for other in sizes)
        for one in ids
    ]
    return replace(
        runs,
        run_ids=ids,
        weights=runs.weights[rows],
        losses=runs.losses[rows],
        losses_bpb=runs.losses_bpb[rows],
        diverged=np.array(diverged),
        n_tokens=runs.n_tokens[rows],
    )


def gather(job: Job, runs: Runs, sizes: Sequence[str], targets: tuple[str, ...]) -> Study:
    """Read all trajectories of the mixtures that diverged at no size."""
    kept = np.flatnonzero(~runs.diverged)
    if len(kept) < 4:
        raise DataError(
            f"{len(kept)} mixtures are left whose runs did not diverge at any size; the laws need "
            "at least 4. Lower proxy.learning_rate, or measure more mixtures."
        )
    folder, losses = job.folder("sweep"), []
    for row in kept:
        curves = [
            read_trajectory(folder / f"{runs.run_ids[row]}-{size}" / "trajectory.parquet")
            for size in sizes
        ]
        columns = [curves[0].targets.index(name) for name in targets]
        losses.append([curve.losses_bpb[:, columns] for curve in curves])
    return Study(
        mixture_ids=tuple(runs.run_ids[row] for row in kept),
        domains=runs.domains,
        weights=runs.weights[kept],
        sizes=np.array([model_size(size).n_parameters for size in sizes]),
        n_tokens=curves[0].n_tokens,
        targets=targets,
        losses=np.array(losses),
    )


def write(job: Job, study: Study, found: Extrapolation, *, settings: object, seed: int) -> None:
    """Write the study and where its laws lead as an artefact."""
    with artifacts.writing(
        job.folder("scaling"),
        stage="fit",
        settings=config.dump(settings),
        seed=seed,
        inputs={"runs": artifacts.digest_of(job.folder("runs"))},
    ) as aside:
        write_study(aside / _STUDY, study)
        plain = {
            "method": found.method,
            "size": found.size,
            "n_tokens": found.n_tokens,
            "mixtures": list(study.mixture_ids),
            "targets": list(study.targets),
            "mean": found.mean.tolist(),
            "sd": found.sd.tolist(),
            "exponents": found.exponents.tolist(),
            "exponent_ranges": found.exponent_ranges.tolist(),
            "held_out": None if found.held_out is None else asdict(found.held_out),
            "outliers": [list(one) for one in found.outliers],
        }
        artifacts.write_json(aside / _SCALING, cast(Json, plain))


def read(job: Job) -> tuple[Study, Extrapolation]:
    """Read the finished study, its mixtures in the order of the extrapolation."""
    folder = artifacts.require(job.folder("scaling"), made_by="cuvee fit")
    data = cast(dict[str, Json], artifacts.read_json(folder / _SCALING))
    ids = cast(list[str], data["mixtures"])
    study = read_study(folder / _STUDY)
    held_out = cast(dict[str, float] | None, data["held_out"])
    order = [study.mixture_ids.index(one) for one in ids]
    study = replace(
        study,
        mixture_ids=tuple(ids),
        weights=study.weights[order],
        losses=study.losses[order],
    )
    return study, Extrapolation(
        method="nested" if data["method"] == "nested" else "joint",
        size=cast(int, data["size"]),
        n_tokens=cast(int, data["n_tokens"]),
        mean=np.array(data["mean"]),
        sd=np.array(data["sd"]),
        exponents=np.array(data["exponents"]),
        exponent_ranges=np.array(data["exponent_ranges"]),
        held_out=None if held_out is None else HeldOutSize(**held_out),  # type: ignore[arg-type]
        outliers=tuple(tuple(one) for one in cast(list[list[int]], data["outliers"])),  # type: ignore[misc]
    )


def carried(runs: Runs, study: Study, found: Extrapolation) -> Runs:
    """Return the runs as if they had been measured at the target size and tokens."""
    rows = [runs.run_ids.index(one) for one in study.mixture_ids]
    return replace(
        runs,
        run_ids=study.mixture_ids,
        weights=runs.weights[rows],
        targets=study.targets,
        losses=found.mean,
        losses_bpb=found.mean,
        diverged=np.zeros(len(rows), dtype=np.bool_),
        n_tokens=np.full(len(rows), found.n_tokens),
    )


def choose(
    found: Extrapolation, objective: FloatArray, n: int, *, among: Sequence[int] = ()
) -> list[int]:
    """Choose mixtures to check or to show, evenly over the ranks of their predicted objective.

    Args:
        found: The predictions.
        objective: (n_targets,) weights.
        n: How many at most.
        among: Rows to choose from; empty: all.
    """
    order = np.argsort(found.mean @ objective, kind="stable")
    if among:
        order = order[np.isin(order, among)]
    places = np.linspace(0, len(order) - 1, min(n, len(order)))
    return [int(order[round(place)]) for place in places]


def write_checks(
    job: Job,
    found: Extrapolation,
    chosen: Sequence[int],
    measured: FloatArray,
    prepared: Prepared,
) -> None:
    """Set predictions beside runs of the target size that were trained afterwards.

    Args:
        job: Where.
        found: The predictions.
        chosen: Mixtures that were trained, as rows of the predictions.
        measured: (n_chosen, n_targets) their losses.
        prepared: The objective.
    """
    mean, sd = found.mean[list(chosen)], found.sd[list(chosen)]
    columns = {
        "objective": (
            measured @ prepared.objective,
            mean @ prepared.objective,
            sd @ prepared.objective,
        ),
        **{
            name: (measured[:, place], mean[:, place], sd[:, place])
            for place, name in enumerate(prepared.objective_names)
        },
    }
    rows = [
        {
            "target": name,
            "n": len(true),
            "inside": float(np.mean(np.abs(true - guess) <= NORMAL_90 * doubt)),
            "rank": rank_correlation(guess, true),
            "rmse": float(np.sqrt(np.mean((guess - true) ** 2))),
            "bias": float(np.mean(guess - true)),
            "width": float(np.mean(2.0 * NORMAL_90 * doubt)),
            "spread_sd": float(true.std()),
            "spread_range": float(np.ptp(true)),
            "spread_middle": float(np.subtract(*np.quantile(true, [0.9, 0.1]))),
        }
        for name, (true, guess, doubt) in columns.items()
    ]
    with artifacts.writing(
        job.folder("checks"),
        stage="validate",
        settings={"chosen": list(chosen)},
        seed=0,
        inputs={"scaling": artifacts.digest_of(job.folder("scaling"))},
    ) as aside:
        plain = {"rows": rows, "measured": measured.tolist(), "chosen": list(chosen)}
        artifacts.write_json(aside / _CHECKS, cast(Json, plain))


def checked(job: Job) -> dict[int, FloatArray]:
    """Return the (n_targets,) losses of runs trained at the target size, by their mixture's row."""
    path = job.folder("checks") / _CHECKS
    if not path.exists():
        return {}
    data = cast(dict[str, Json], artifacts.read_json(path))
    rows, losses = cast(list[int], data["chosen"]), cast(list[list[float]], data["measured"])
    return {row: np.array(loss) for row, loss in zip(rows, losses, strict=True)}


def describe(job: Job) -> tuple[str, ...]:
    """Say where the laws lead and how far they can be trusted, a sentence each."""
    _, found = read(job)
    notes = [
        f"Losses are predicted for {found.size:,} parameters and {found.n_tokens:,} tokens by the "
        f"{found.method} law."
    ]
    middle = np.median(found.exponents, axis=0)
    ends = np.median(found.exponent_ranges, axis=0)
    for name, value, (low, high) in zip(("size", "tokens"), middle, ends, strict=False):
        notes.append(
            f"The exponent in {name} is {value:.2f}, median of the targets; {low:.2f} to "
            f"{high:.2f} when one size is left out."
        )
    if found.held_out is None:
        notes.append("Two sizes leave none to check the size law on.")
    else:
        held = found.held_out
        notes.append(
            f"Fitted without its largest size ({held.size:,} parameters), the law misses it by "
            f"{held.rmse:.3f} bits per byte (bias {held.bias:+.3f}; {held.coverage:.0%} of "
            f"{held.n} within the 90% interval; rank correlation {held.rank:.2f}; mixtures differ "
            f"by {held.spread:.3f})."
        )
    path = job.folder("checks") / _CHECKS
    if path.exists():
        rows = cast(dict[str, list[dict[str, float]]], artifacts.read_json(path))["rows"]
        first = rows[0]
        inside = float(np.mean([row["inside"] for row in rows[1:]]))
        notes.append(
            f"{first['n']} mixtures trained afterwards at that size: rank correlation "
            f"{first['rank']:.2f}, error {first['rmse']:.3f}, {first['inside']:.0%} of objectives "
            f"and {inside:.0%} of single targets within their 90% intervals, whose mean width is "
            f"{first['width']:.3f} where the mixtures' losses span {first['spread_range']:.3f}."
        )
    return tuple(notes)
