"""Two finished runs on one page, read from their artefacts alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import yaml

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError, DataError
from cuvee.proxy.sizes import SIZES
from cuvee.report.side_by_side import Cost, Side, build_comparison
from cuvee.validate.compare import TOTAL, Verdict

_NORMAL_90 = 1.645


def write_comparison(one: Path, other: Path, page: Path) -> None:
    """Write two finished runs side by side as one offline HTML page.

    Args:
        one: Folder of a run with a verdict.
        other: Folder of another, judged on the same targets.
        page: The file to write.

    Raises:
        ArtifactError: A folder holds no run, or one without a verdict on mixtures.
        DataError: The runs were judged on other targets.
    """
    sides = (read_side(one), read_side(other))
    check_comparable(*sides)
    artifacts.write_text(page, build_comparison(*sides))


def check_comparable(one: Side, other: Side) -> None:
    """Refuse two runs whose losses are of different things.

    Raises:
        DataError: Targets, their weights or their text differ.
    """
    if one.targets != other.targets:
        raise DataError(
            f"{one.folder} was judged on {', '.join(one.targets)}; {other.folder} on "
            f"{', '.join(other.targets)}. Compare runs that have the same targets."
        )
    if one.weights != other.weights:
        raise DataError(
            f"{one.folder} and {other.folder} weigh their targets differently "
            f"({_listed(one.weights)} and {_listed(other.weights)}). Compare runs that have the "
            "same targets.weights."
        )
    if one.text != other.text:
        raise DataError(
            f"{one.folder} and {other.folder} have targets of the same names but of other text "
            f"(fingerprints {one.text[:12]} and {other.text[:12]}). Compare runs that have the "
            "same target sets."
        )


def read_side(out: Path) -> Side:
    """Read a finished run.

    Args:
        out: Its folder.

    Raises:
        ArtifactError: It holds no run, or one without a verdict on mixtures.
    """
    if not (out / "config.yaml").is_file():
        raise ArtifactError(f"{out} holds no run; give the --out folder of `cuvee run`.")
    verdict_folder = artifacts.require(out / "verdict", made_by="cuvee validate")
    if not (verdict_folder / "verdict.json").exists():
        raise ArtifactError(
            f"{out} holds no verdict on mixtures (a continual run has none). Compare runs of "
            "regmix, mixing-laws, quadmix or quad."
        )
    settings = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    verdict = Verdict.from_json(
        cast(Mapping[str, Json], artifacts.read_json(verdict_folder / "verdict.json"))
    )
    own = settings.get("targets") is not None
    predicted, low, high = _predicted(out)
    return Side(
        folder=str(out),
        targets=verdict.targets,
        weights=verdict.weights,
        text=_fingerprint(out / ("targets/index" if own else "corpus/index")),
        pool=_fingerprint(out / "corpus/index"),
        mixture=_mixture(out),
        predicted=predicted,
        predicted_low=low,
        predicted_high=high,
        losses={
            "all targets" if score.target == TOTAL else score.target: score.mean_bpb
            for score in verdict.scores
            if score.mixture == verdict.chosen
        },
        verdict=tuple(verdict.rows),
        judged=_judged(settings["validate"]),
        costs=tuple(_costs(out, settings)),
        settings=tuple(sorted(_flat("", settings).items())),
    )


def _listed(weights: Sequence[float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights)


def _judged(validate: Mapping[str, Json]) -> str:
    return (
        f"models of {validate['size']} parameters, {cast(int, validate['n_tokens']):,} tokens, "
        f"{validate['n_seeds']} seeds"
    )


def _fingerprint(index: Path) -> str:
    summary = artifacts.read_json(index / "summary.json")
    return str(cast(Mapping[str, Json], summary)["fingerprint"])


def _mixture(out: Path) -> dict[str, float]:
    """Return the token shares planned, by domain."""
    folder = artifacts.require(out / "selection", made_by="cuvee select")
    found = cast(Mapping[str, Json], artifacts.read_json(folder / "mixture.json"))
    domains = cast(Mapping[str, Mapping[str, float]], found["domains"])
    return {name: one["planned_share"] for name, one in domains.items()}


def _predicted(out: Path) -> tuple[float | None, float | None, float | None]:
    """Return the objective predicted for the answer and the ends of its 90% interval."""
    for name in ("optimum.json", "found.json"):
        path = out / "optimum" / name
        if not path.exists():
            continue
        found = cast(Mapping[str, Json], artifacts.read_json(path))
        mean, sd = found.get("predicted"), found.get("predicted_sd")
        if not isinstance(mean, float):
            continue
        if isinstance(found.get("interval"), list):
            low, high = cast(Sequence[float], found["interval"])
            return mean, low, high
        half = _NORMAL_90 * sd if isinstance(sd, float) else None
        return (mean, None, None) if half is None else (mean, mean - half, mean + half)
    return None, None, None


def _costs(out: Path, settings: Mapping[str, Json]) -> list[Cost]:
    """Add up what was trained, folder by folder, and the seconds of the stages."""
    vocabulary = cast(Mapping[str, int], settings["tokens"])["vocabulary_size"]
    costs = []
    for folder in sorted(one for one in out.iterdir() if one.is_dir()):
        specs = [path for path in sorted(folder.glob("*/spec.json")) if _is_run(path.parent)]
        if not specs:
            continue
        n_tokens, flops = 0, 0.0
        for path in specs:
            spec = cast(Mapping[str, Json], artifacts.read_json(path))
            result = cast(Mapping[str, int], artifacts.read_json(path.with_name("result.json")))
            size = SIZES.get(str(spec.get("size")))
            n_tokens += result["n_tokens"]
            if size is not None:
                per_token = size.flops_per_token(vocabulary, cast(int, spec["context"]))
                flops += float(result["n_tokens"] * per_token)
        costs.append(Cost(what=folder.name, n_runs=len(specs), n_tokens=n_tokens, flops=flops))
    timing = out / artifacts.TIMING
    seconds = cast(Mapping[str, float], artifacts.read_json(timing)) if timing.exists() else {}
    costs += [Cost(what=f"time of {name}", seconds=value) for name, value in seconds.items()]
    return costs


def _is_run(folder: Path) -> bool:
    return artifacts.is_done(folder) and (folder / "result.json").exists()


def _flat(path: str, node: Json) -> dict[str, str]:
    """Return settings by their dotted names, lists as text."""
    if isinstance(node, Mapping) and node:
        found: dict[str, str] = {}
        for key, value in node.items():
            found |= _flat(f"{path}.{key}" if path else str(key), value)
        return found
    return {path: yaml.safe_dump(node, default_flow_style=True, width=10_000).split("\n")[0]}
