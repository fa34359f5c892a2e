"""A fitted predictor with the names of its columns, as an artefact folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from cuvee import artifacts
from cuvee.arrays import FloatArray
from cuvee.artifacts import Json
from cuvee.errors import ArtifactError, DataError
from cuvee.fit.models import model_class
from cuvee.simplex import TOLERANCE
from cuvee.tables.predictor import Predictor

PREDICTOR_FILE = "predictor.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedPredictor:
    """A fitted predictor and the names of its domains and targets."""

    model: Predictor
    name: str
    """Key of the model in `fit.models.MODELS`."""
    domains: tuple[str, ...]
    targets: tuple[str, ...]
    error_correlation: FloatArray | None = None
    """(n_targets, n_targets) of held-out errors, from `fit.error_correlation`; None: unknown."""
    gone: tuple[str, ...] = ()
    """Domains the model was fitted on besides that a mixture can no longer have: the model's last
    columns, zero in every prediction."""

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of mixtures whose columns are ``domains``, in that order.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.

        Returns:
            Mean and standard deviation of a new run, both (n_rows, n_targets).
        """
        return self.model.predict(_without_gone(weights, len(self.gone)))

    def change(self, weights: FloatArray, base: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """Predict how the expected losses change from one mixture to others.

        Args:
            weights: (n_rows, n_domains) token shares; rows sum to 1.
            base: (n_domains,) token shares of the mixture compared with.

        Returns:
            Mean and standard deviation of the change, both (n_rows, n_targets); None instead of
            the latter for a model that does not know how its errors at two mixtures go together.
        """
        rows = _without_gone(np.vstack([weights, base]), len(self.gone))
        if hasattr(self.model, "change"):
            return cast(ChangeModel, self.model).change(rows[:-1], rows[-1])
        mean, _ = self.model.predict(rows)
        return mean[:-1] - mean[-1], None

    def convex_part(self) -> "ConvexPredictor | None":
        """Return the model if its means are convex, or the convex law inside it, if any."""
        for model in (self.model, getattr(self.model, "law_", None)):
            if hasattr(model, "slopes"):
                convex = cast(ConvexModel, model)
                return ConvexPredictor(
                    model=convex,
                    domains=self.domains,
                    targets=self.targets,
                    error_correlation=self.error_correlation,
                    n_gone=len(self.gone),
                )
        return None

    def predict_named(
        self, domains: Sequence[str], weights: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of mixtures whose columns have names, in any order.

        Args:
            domains: Names of the columns. A domain the predictor does not know must have no share.
            weights: (n_rows, len(domains)) token shares; rows sum to 1.

        Returns:
            Mean and standard deviation of a new run, both (n_rows, n_targets).

        Raises:
            DataError: A domain of the predictor is missing, or an unknown one has a share.
        """
        return self.predict(self._arrange(tuple(domains), weights))

    def _arrange(self, domains: tuple[str, ...], weights: FloatArray) -> FloatArray:
        missing = [name for name in self.domains if name not in domains]
        if missing:
            raise DataError(
                f"weights have no column for domain {missing[0]!r} ({len(missing)} missing); the "
                f"predictor was fitted on {', '.join(self.domains)}. Add the column, with zeros if "
                "the domain is not used."
            )
        for column, name in enumerate(domains):
            if (
                name not in self.domains
                and float(np.max(weights[:, column], initial=0.0)) > TOLERANCE
            ):
                raise DataError(
                    f"weights give domain {name!r} a share, but the predictor was not fitted on "
                    f"it; it knows {', '.join(self.domains)}. Rename the column or fit with it."
                )
        return np.asarray(weights[:, [domains.index(name) for name in self.domains]])


class ChangeModel(Protocol):
    """A fitted model that knows how its errors at two mixtures go together."""

    def change(self, weights: FloatArray, base: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict changes of the losses from one mixture to others."""
        ...


class MeanModel(Protocol):
    """A fitted model that knows its means without their deviations."""

    def mean(self, weights: FloatArray) -> FloatArray:
        """Predict the means."""
        ...


class ConvexModel(Protocol):
    """A fitted model with derivatives."""

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of mixtures."""
        ...

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Compute the derivatives of the means along the weights."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvexPredictor:
    """A convex model and the names of its domains and targets."""

    model: ConvexModel
    domains: tuple[str, ...]
    targets: tuple[str, ...]
    error_correlation: FloatArray | None = None
    """(n_targets, n_targets) of held-out errors; None: unknown."""
    n_gone: int = 0
    """Last columns of the model that are zero in every mixture (`NamedPredictor.gone`)."""

    def predict(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predict the losses of mixtures: mean and sd, both (n_rows, n_targets)."""
        return self.model.predict(_without_gone(weights, self.n_gone))

    def mean(self, weights: FloatArray) -> FloatArray:
        """Predict the (n_rows, n_targets) means alone, which some models do far faster."""
        rows = _without_gone(weights, self.n_gone)
        if hasattr(self.model, "mean"):
            return cast(MeanModel, self.model).mean(rows)
        return self.model.predict(rows)[0]

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Compute the (n_rows, n_targets, n_domains) derivatives of the means."""
        slopes = self.model.slopes(_without_gone(weights, self.n_gone))
        return slopes[:, :, : len(self.domains)]


def _without_gone(weights: FloatArray, n_gone: int) -> FloatArray:
    """Give the domains that are gone columns of zeros."""
    return np.pad(weights, ((0, 0), (0, n_gone))) if n_gone else weights


def write_predictor(folder: Path, predictor: NamedPredictor) -> None:
    """Write a predictor as one JSON file into a folder that is being filled.

    Args:
        folder: An existing folder, such as `artifacts.writing` yields.
        predictor: Fitted.
    """
    gone: dict[str, Json] = {"gone": list(predictor.gone)} if predictor.gone else {}
    artifacts.write_json(
        folder / PREDICTOR_FILE,
        {
            "model": predictor.name,
            "domains": list(predictor.domains),
            "targets": list(predictor.targets),
            "error_correlation": (
                None
                if predictor.error_correlation is None
                else predictor.error_correlation.tolist()
            ),
            "fitted": predictor.model.to_json(),
            **gone,
        },
    )


def save_predictor(
    folder: Path,
    predictor: NamedPredictor,
    *,
    settings: Json,
    seed: int,
    inputs: Mapping[str, str],
) -> None:
    """Write a predictor as an artefact folder of its own.

    Args:
        folder: Where it will stand; must not be finished yet.
        predictor: Fitted.
        settings: What the fit depended on.
        seed: The run's seed.
        inputs: Digests of what the fit read, by name.

    Raises:
        ArtifactError: The folder is already finished.
    """
    with artifacts.writing(
        folder, stage="fit", settings=settings, seed=seed, inputs=inputs
    ) as aside:
        write_predictor(aside, predictor)


def load_predictor(folder: Path) -> NamedPredictor:
    """Read a predictor from a finished artefact folder.

    Args:
        folder: Written by `save_predictor`, or any stage that called `write_predictor`.

    Returns:
        The predictor; its predictions equal those before saving.

    Raises:
        ArtifactError: The folder is not finished, or holds no predictor of this version.
    """
    artifacts.require(folder, made_by="cuvee fit")
    data = cast(Mapping[str, Json], artifacts.read_json(folder / PREDICTOR_FILE))
    try:
        name = cast(str, data["model"])
        known = data.get("error_correlation")
        return NamedPredictor(
            error_correlation=None if known is None else np.array(known, dtype=np.float64),
            model=model_class(name).from_json(cast(Mapping[str, Json], data["fitted"])),
            name=name,
            domains=tuple(cast(Sequence[str], data["domains"])),
            targets=tuple(cast(Sequence[str], data["targets"])),
            gone=tuple(cast(Sequence[str], data.get("gone", ()))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / PREDICTOR_FILE} holds no predictor this version can read ({error}). Delete "
            "the folder and fit again."
        ) from error
