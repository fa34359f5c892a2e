"""YAML to frozen dataclasses and back: the only edge at which pydantic is used."""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from cuvee.artifacts import Json
from cuvee.errors import ConfigError

T = TypeVar("T")
_TRIED = re.compile(r"literal\[.*\]|int|str|float|bool")


def load(
    kind: type[T],
    path: Path,
    overrides: Sequence[str] = (),
    *,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> T:
    """Read a config file.

    Args:
        kind: The dataclass to make; nested dataclasses become nested sections.
        path: A YAML file with one mapping.
        overrides: ``a.b=value`` settings that replace the file's; values are YAML.
        presets: Settings by name, chosen by the key ``preset``, used where the file is silent; that
            named "default" where the file has no such key.

    Returns:
        The config, every default filled in.

    Raises:
        ConfigError: The file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"config file {path} does not exist. Give the path of a YAML file."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"config file {path} cannot be read ({error.strerror}). Give the path of a YAML file."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path} is not UTF-8. Save it as UTF-8.") from error
    settings = _parse_yaml(text, str(path))
    if not isinstance(settings, dict):
        raise ConfigError(
            f"config file {path} holds {type(settings).__name__}, not a mapping of keys."
        )
    for override in overrides:
        _override(settings, override)
    chosen = settings.get("preset", "default")
    if presets and isinstance(chosen, str) and chosen in presets:
        settings = _merge(presets[chosen], settings)
    return parse(kind, settings)


def parse(kind: type[T], settings: Mapping[str, Json]) -> T:
    """Make a config from plain settings.

    Raises:
        ConfigError: A key is unknown, missing or out of range; the message names it by its path.
    """
    try:
        _check_plain("", settings)
        made: T = _adapter(cast(Hashable, kind)).validate_json(json.dumps(settings), strict=False)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        path = _path(errors[0]["loc"])
        # A key that may be of several types has an error for each of them.
        same = [one for one in errors if _path(one["loc"]) == path]
        detail = {**errors[0], "msg": "; or ".join(str(one["msg"]) for one in same)}
        raise ConfigError(_message(kind, path, detail, len(errors) - len(same) + 1)) from error
    except RecursionError as error:
        raise ConfigError("config is nested too deeply, or an alias refers to itself.") from error
    return made


def dump(config: object) -> dict[str, Json]:
    """Return the resolved config as plain JSON data, defaults included."""
    kind = cast(Hashable, type(config))
    plain: dict[str, Json] = _adapter(kind).dump_python(config, mode="json")
    return plain


def dump_yaml(config: object) -> str:
    """Return the resolved config as YAML text."""
    return to_yaml(dump(config))


def to_yaml(plain: Json) -> str:
    """Write plain data as YAML, keys in the order given."""
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return text


def differing_keys(one: Json, other: Json) -> list[str]:
    """Name the keys at which two plain configs differ, by path.

    A key that one of them lacks and the other leaves empty is no difference.
    """
    return list(_differences("", one, other))


def fields_of(kind: type) -> list[str]:
    """Name the fields of a config dataclass."""
    return [field.name for field in dataclasses.fields(kind)]


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Return pydantic's reader and writer of a dataclass; to make one takes milliseconds."""
    return TypeAdapter(kind)


def _check_plain(path: str, node: object) -> None:
    """Refuse what YAML knows and JSON does not: dates, NaN, and keys that are not words."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise ConfigError(
                    f"config key {path or '(top)'}: YAML reads one of its keys as {key!r}; put the "
                    "key in quotes."
                )
            _check_plain(f"{path}.{key}" if path else str(key), value)
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            _check_plain(f"{path}.{number}", value)
    elif isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"config key {path} is {node}; it must be a finite number.")
    elif node is not None and not isinstance(node, (bool, int, float, str)):
        raise ConfigError(
            f"config key {path}: YAML reads {str(node)!r} as a {type(node).__name__}; put the "
            "value in quotes."
        )


def _differences(path: str, one: Json, other: Json) -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted(set(one) | set(other)):
            below = f"{path}.{key}" if path else key
            if key not in one or key not in other:
                if {**one, **other}[key] != {}:
                    yield below
            else:
                yield from _differences(below, one[key], other[key])
    elif one != other:
        yield path


def _path(location: Sequence[str | int]) -> str:
    """Join the keys of an error's place, without the types that pydantic tried there."""
    return ".".join(str(part) for part in location if not _TRIED.fullmatch(str(part)))


def _message(kind: type, path: str, detail: Mapping[str, Any], n_errors: int) -> str:
    more = f" ({n_errors - 1} more)" if n_errors > 1 else ""
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        allowed = _allowed_keys(kind, path.split(".")[:-1])
        return f"config key {path} is unknown; allowed here: {', '.join(allowed)}.{more}"
    if detail["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"config key {path} is missing; add it.{more}"
    reason = str(detail["msg"]).removeprefix("Value error, ").removesuffix(".")
    found = detail.get("input")
    shown = f" (found {found!r:.80})" if isinstance(found, (str, int, float, bool)) else ""
    return f"config{f' key {path}' if path else ''}: {reason}{shown}.{more}"


def _allowed_keys(kind: type, path: Sequence[str]) -> list[str]:
    """Walk the dataclass tree by field names; list positions are passed over."""
    schema: Mapping[str, Any] = _adapter(cast(Hashable, kind)).json_schema()
    definitions = schema.get("$defs", {})
    node: Mapping[str, Any] = schema
    for part in path:
        node = _resolve(node, definitions)
        if part.isdigit():
            node = node.get("items", node)
        else:
            node = node.get("properties", {}).get(part, node.get("additionalProperties", {}))
    return sorted(_resolve(node, definitions).get("properties", {}))


def _resolve(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    for option in [node, *node.get("anyOf", ()), *node.get("oneOf", ())]:
        if "$ref" in option:
            return dict(definitions[option["$ref"].rsplit("/", 1)[1]])
    return node


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree of settings over another; the upper one's values stand."""
    merged = {**below, **above}
    for key in set(below) & set(above):
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = _merge(below[key], above[key])
    return merged


def _override(settings: dict[str, Any], override: str) -> None:
    path, found, text = override.partition("=")
    if not found or not path:
        raise ConfigError(
            f"--set {override!r} is not KEY=VALUE, such as --set proxy.n_tokens=200000."
        )
    *above, last = path.split(".")
    node = settings
    for key in above:
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {key} is not a section with keys.")
    node[last] = _parse_yaml(text, f"--set {override}")


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """YAML's plain data, without its two traps: keys given twice, and 4e-4 read as a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for position, key in enumerate(keys):
            if any(key.value == earlier.value for earlier in keys[:position]):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
