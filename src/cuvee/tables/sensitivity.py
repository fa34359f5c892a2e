"""What holds an optimum where it is, and how far it may be moved: prices, ranges, a path."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from cuvee import artifacts
from cuvee.errors import ArtifactError


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What it would be worth to loosen one limit."""

    kind: Literal["upper", "lower", "row", "floor"]
    """The most or the least of a domain, a further linear limit, or the floor of a target."""
    name: str
    """Of the domain or target; of a row its text."""
    bound: float
    price: float
    """Fall of the objective per unit that the limit is loosened by, at the margin; above 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PathPoint:
    """The best mixture under one strength of the pull towards the reference."""

    kl: float
    """Strength, in the objective's unit per nat."""
    divergence: float
    """KL(mixture || reference), nats."""
    predicted: float
    """Objective without the pull."""
    weights: tuple[float, ...]
    """(n_domains,) token shares."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """What surrounds an optimum."""

    domains: tuple[str, ...]
    exact: bool
    """Solved exactly; otherwise found among simulated mixtures, so ranges are at least as wide."""
    gap: float | None
    """No allowed mixture is predicted better by more than this; None where that is not known."""
    within: float
    """Rise of the objective that cannot be told from none, where a rise is not judged by itself."""
    paired: bool
    """Each mixture's rise was judged by the standard deviation of that change itself."""
    ranges: tuple[tuple[float, float], ...]
    """(n_domains,) least and largest share among the allowed mixtures whose predicted rise over the
    optimum is at most 1.645 standard deviations of that change, or ``within``."""
    prices: tuple[Price, ...] = ()
    """Limits that cost something, dearest first."""
    path: tuple[PathPoint, ...] = ()
    """From the strongest pull to none."""


def write_sensitivity(path: Path, found: Sensitivity) -> None:
    """Write it as JSON."""
    artifacts.write_json(path, asdict(found))


def read_sensitivity(path: Path) -> Sensitivity:
    """Read what `write_sensitivity` wrote.

    Raises:
        ArtifactError: The file is missing or something else.
    """
    data = cast(Mapping[str, Any], artifacts.read_json(path))
    try:
        return Sensitivity(
            domains=tuple(data["domains"]),
            exact=bool(data["exact"]),
            gap=data["gap"],
            within=float(data["within"]),
            paired=bool(data["paired"]),
            ranges=tuple((float(low), float(high)) for low, high in data["ranges"]),
            prices=tuple(Price(**one) for one in data["prices"]),
            path=tuple(
                PathPoint(**{**one, "weights": tuple(one["weights"])}) for one in data["path"]
            ),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not what a search writes ({error}). Delete its folder and run the search "
            "again."
        ) from error
