"""Options of the form NAME=VALUE."""

import pytest

from cuvee.cli.assignments import numbers, ranges, texts
from cuvee.errors import ConfigError


def test_pairs_are_read() -> None:
    """The last = parts name and value, and no option means no pairs."""
    assert texts("--own", ["a=b", "metric/x=y=c"]) == {"a": "b", "metric/x=y": "c"}
    assert numbers("--cap", ["a=0.25"]) == {"a": 0.25}
    assert ranges("--bound", ["a=0.1:0.5"]) == {"a": (0.1, 0.5)}
    assert texts("--own", None) == numbers("--cap", []) == ranges("--bound", None) == {}


@pytest.mark.parametrize("value", ["a", "=b", "a=", ""])
def test_half_a_pair_is_refused(value: str) -> None:
    """The message shows what was given."""
    with pytest.raises(ConfigError, match=rf"--own is '{value}'; give it as NAME=VALUE"):
        texts("--own", [value])


def test_other_values_are_refused() -> None:
    """Twice the same name, words for numbers, one number for a range."""
    with pytest.raises(ConfigError, match="--cap names 'a' twice"):
        numbers("--cap", ["a=1", "a=0.5"])
    with pytest.raises(ConfigError, match="--cap of 'a' is 'much'; give a number"):
        numbers("--cap", ["a=much"])
    with pytest.raises(ConfigError, match=r"--bound of 'a' is '0\.5'; give it as LOW:HIGH"):
        ranges("--bound", ["a=0.5"])
    with pytest.raises(ConfigError, match="--bound of 'a' is 'x'; give a number"):
        ranges("--bound", ["a=0:x"])
