"""The table of predictors."""

import pytest

from cuvee.errors import ConfigError
from cuvee.fit.models import CONSTANT_ERRORS, DEFAULT_MODEL, MODELS, make_fold_model, make_model


def test_names_are_those_of_the_command_line() -> None:
    """The names users type, the default among them."""
    assert list(MODELS) == [
        "linear",
        "boosted-trees",
        "exponential",
        "bivariate-power",
        "effective-data-power",
        "implicit-law",
        "distilled-law",
        "log-gaussian-process",
        "shared-gaussian-process",
        "ensemble",
    ]
    assert DEFAULT_MODEL in MODELS
    assert set(MODELS) > CONSTANT_ERRORS


def test_each_name_makes_its_class() -> None:
    """With and without own domains, for fits and folds."""
    for name, kind in MODELS.items():
        assert type(make_model(name, own=(None,))) is kind
        assert type(make_fold_model(name)) is kind


def test_unknown_name_is_refused() -> None:
    """The message lists the choices."""
    with pytest.raises(ConfigError, match="model 'tree' is unknown; choose one of linear, "):
        make_model("tree")
