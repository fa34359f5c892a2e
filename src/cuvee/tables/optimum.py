"""The answer of a search: a mixture and what is predicted for it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from cuvee import artifacts
from cuvee.errors import ArtifactError
from cuvee.simplex import check_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """The best mixture found, with predictions at that mixture itself."""

    domains: tuple[str, ...]
    weights: tuple[float, ...]
    """(n_domains,) token shares; sum to 1."""
    targets: tuple[str, ...]
    objective_weights: tuple[float, ...]
    """(n_targets,) weight of each target in the objective; sum to 1."""
    predicted: float
    """Predicted objective, in the unit of the fitted losses."""
    predicted_sd: float
    """Its standard deviation, from those of the targets and how their errors move together."""
    interval: tuple[float, float]
    """90% interval of the objective: mean and 1.645 standard deviations either way."""
    target_means: tuple[float, ...]
    """(n_targets,) predicted losses."""
    target_sds: tuple[float, ...]
    """(n_targets,) their standard deviations."""
    n_simulated: int
    """Mixtures drawn and predicted in all; 0 where the constraints leave one mixture."""
    n_best: int
    """Best mixtures averaged into the answer."""

    def __post_init__(self) -> None:
        check_weights(self.weights, n_domains=len(self.domains))


def write_optimum(path: Path, optimum: Optimum) -> None:
    """Write an optimum as JSON."""
    artifacts.write_json(path, asdict(optimum))


def read_optimum(path: Path) -> Optimum:
    """Read an optimum written by `write_optimum`.

    Raises:
        ArtifactError: The file is missing or not an optimum.
    """
    data = cast(dict[str, Any], artifacts.read_json(path))
    try:
        values = {key: _frozen(value) for key, value in data.items()}
        return Optimum(**values)
    except (AttributeError, TypeError) as error:
        raise ArtifactError(
            f"{path} is not an optimum ({error}). Delete its folder and run the search again."
        ) from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
