"""Config files: every fault is named by the path of its key."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from cuvee import config
from cuvee.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """A section."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    rate: float = 0.1
    """At most 1."""
    sizes: tuple[int, ...] = (1, 2)
    """Some numbers."""

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ConfigError(f"rate is {self.rate}; it must be at most 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """A whole config."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    """A word."""
    kind: Literal["small", "large"] = "small"
    """One of two."""
    path: Path | None = None
    """A path."""
    inner: Inner = field(default_factory=Inner)
    """A section."""
    parts: tuple[Inner, ...] = ()
    """Several sections."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Numbers by name."""
    n_tokens: int = 10
    """A count."""


Load = Callable[..., Outer]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Give a function that loads YAML text as an Outer."""

    def load_text(text: str, *overrides: str) -> Outer:
        (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
        return config.load(Outer, tmp_path / "c.yaml", overrides)

    return load_text


def test_defaults_are_filled_in_and_dumped(load: Load) -> None:
    """The resolved config survives the round trip through YAML."""
    loaded = load("name: a\ninner: {sizes: [3]}\nshares: {web: 0.5}\npath: ../x\n")
    assert loaded.inner == Inner(sizes=(3,))
    assert loaded.path == Path("../x")
    assert config.dump(loaded)["inner"] == {"rate": 0.1, "sizes": [3]}
    assert load(config.dump_yaml(loaded)) == loaded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nnmae: b\n", "config key nmae is unknown; allowed here: inner, kind, n_tokens"),
        (
            "name: a\ninner: {rat: 1}\n",
            "config key inner.rat is unknown; allowed here: rate, sizes",
        ),
        ("name: a\nparts: [{rat: 1}]\n", "parts.0.rat is unknown; allowed here: rate, sizes"),
        ("kind: small\n", "config key name is missing; add it."),
        (
            "name: a\nkind: huge\n",
            "config key kind: Input should be 'small' or 'large' (found 'huge')",
        ),
        ("name: a\ninner: {rate: 2}\n", "config key inner: rate is 2.0; it must be at most 1."),
        ("name: a\nn_tokens: many\n", "config key n_tokens: Input should be a valid integer"),
        ("name: a\nn_tokens: [../up..]\n", "config key n_tokens: Input should be a valid integer"),
        ("name: a\nkind: ../up\n", "(found '../up')"),
        ("name: a\nshares: {web: .nan}\n", "config key shares.web is nan; it must be a finite"),
        ("name: a\nshares: {no: 1.0}\n", "shares: YAML reads one of its keys as False; put"),
        ("name: &a [*a]\n", "config is nested too deeply, or an alias refers to itself"),
        ("name: a\nname: b\n", "key 'name' is given twice"),
        ("name: [a\n", "is not valid YAML"),
        ("- a\n", "holds list, not a mapping of keys"),
        ("", "holds NoneType, not a mapping of keys"),
        ("name: 2020-01-01\n", "config key name: YAML reads '2020-01-01' as a date; put the value"),
        ("name: !!python/object:os.system {}\n", "is not valid YAML"),
    ],
)
def test_faults_are_named_by_their_path(load: Load, text: str, message: str) -> None:
    """Each fault has one message that says where it is."""
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert message in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """A missing file, a folder and a file of another encoding have messages of their own."""
    with pytest.raises(ConfigError, match=r"no\.yaml does not exist"):
        config.load(Outer, tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(Outer, tmp_path)
    (tmp_path / "l.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        config.load(Outer, tmp_path / "l.yaml")


def test_numbers_in_scientific_notation_are_numbers(load: Load) -> None:
    """4e-4 and 2e6 mean what they say, without YAML 1.1's dot and sign."""
    loaded = load("name: a\ninner: {rate: 4e-4}\nn_tokens: 2e6\n")
    assert loaded.inner.rate == 4e-4
    assert loaded.n_tokens == 2_000_000


def test_overrides_replace_settings(load: Load) -> None:
    """--set reaches nested keys, empty sections included; later ones win."""
    loaded = load("name: a\ninner:\n", "inner.rate=0.5", "inner.rate=0.25", "kind=large")
    assert loaded.inner.rate == 0.25
    assert loaded.kind == "large"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate", "is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("name.x=3", "name is not a section with keys"),
        ("inner.rat=3", "config key inner.rat is unknown"),
        ("inner={", "is not valid YAML"),
    ],
)
def test_bad_overrides_are_refused(load: Load, override: str, message: str) -> None:
    """A fault in --set names the option or the key."""
    with pytest.raises(ConfigError) as caught:
        load("name: a\n", override)
    assert message in str(caught.value)


def test_differing_keys_are_named_by_path() -> None:
    """Only the keys at which two configs differ are named."""
    one = config.dump(Outer(name="a"))
    other = config.dump(Outer(name="a", inner=Inner(rate=0.2), shares={"web": 1.0}))
    assert config.differing_keys(one, other) == ["inner.rate", "shares.web"]
    assert config.differing_keys(one, one) == []


def test_a_new_key_left_empty_is_no_difference() -> None:
    """A folder made before a key was known goes on where the key is not used."""
    old: dict[str, object] = {"targets": {"sets": {"code": 1}}}
    empty = {"targets": {"sets": {"code": 1}, "tasks": {}}}
    used = {"targets": {"sets": {"code": 1}, "tasks": {"arc": 1}}}
    assert config.differing_keys(old, empty) == []  # type: ignore[arg-type]
    assert config.differing_keys(old, used) == ["targets.tasks"]  # type: ignore[arg-type]


def test_fields_are_listed() -> None:
    """Field names come in order of definition."""
    assert config.fields_of(Inner) == ["rate", "sizes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WithPreset:
    """A config with presets."""

    preset: str = "default"
    """Of these settings."""
    rate: float = 0.1
    """Some rate."""
    size: int = 1
    """Some size."""


@pytest.mark.parametrize(
    ("text", "rate", "size"),
    [
        ("{}", 0.2, 1),
        ("rate: 0.5", 0.5, 1),
        ("preset: default", 0.2, 1),
        ("preset: paper", 0.1, 9),
        ("preset: paper\nsize: 3", 0.1, 3),
    ],
)
def test_a_preset_fills_in_where_the_file_is_silent(
    tmp_path: Path, text: str, rate: float, size: int
) -> None:
    """The one named default also where the file names none."""
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    presets = {"default": {"rate": 0.2}, "paper": {"size": 9}}
    loaded = config.load(WithPreset, path, presets=presets)
    assert (loaded.rate, loaded.size) == (rate, size)
