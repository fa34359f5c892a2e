"""Options of the form NAME=VALUE, given once for each name."""

from collections.abc import Sequence

from cuvee.errors import ConfigError

_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def texts(option: str, values: Sequence[str] | None) -> dict[str, str]:
    """Read NAME=TEXT options; the last = parts them, since names of targets may hold one.

    Args:
        option: The option's name, for the message.
        values: As given on the command line.

    Raises:
        ConfigError: A value has no =, or a name is given twice.
    """
    found: dict[str, str] = {}
    for value in values or ():
        name, parted, text = value.rpartition("=")
        if not parted or not name or not text:
            raise ConfigError(f"{option} is {value!r}; give it as NAME=VALUE.")
        if name in found:
            raise ConfigError(f"{option} names {name!r} twice; give each name once.")
        found[name] = text
    return found


def numbers(option: str, values: Sequence[str] | None) -> dict[str, float]:
    """Read NAME=NUMBER options.

    Args:
        option: The option's name, for the message.
        values: As given on the command line.

    Raises:
        ConfigError: A value is no such pair.
    """
    return {name: _number(option, name, text) for name, text in texts(option, values).items()}


def ranges(option: str, values: Sequence[str] | None) -> dict[str, tuple[float, float]]:
    """Read NAME=LOW:HIGH options.

    Args:
        option: The option's name, for the message.
        values: As given on the command line.

    Raises:
        ConfigError: A value is no such pair.
    """
    found = {}
    for name, text in texts(option, values).items():
        low, parted, high = text.partition(":")
        if not parted:
            raise ConfigError(f"{option} of {name!r} is {text!r}; give it as LOW:HIGH.")
        found[name] = (_number(option, name, low), _number(option, name, high))
    return found


def quantity(option: str, text: str | None) -> int:
    """Read a count such as 70000000, 70M or 1.5B.

    Args:
        option: The option's name, for the message.
        text: As given on the command line; None: missing.

    Raises:
        ConfigError: It is missing or no count.
    """
    if text is None:
        raise ConfigError(f"{option} is missing; --at-size and --at-tokens go together.")
    unit = _UNITS.get(text[-1:].lower(), 1)
    digits = text[:-1] if unit > 1 else text
    try:
        value = float(digits) * unit
    except ValueError as error:
        raise ConfigError(f"{option} is {text!r}; give a count such as 70M or 1.5B.") from error
    if not (0.0 <= value < 1e18 and value == round(value)):
        raise ConfigError(f"{option} is {text!r}; give a whole count such as 70M or 1.5B.")
    return round(value)


def _number(option: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{option} of {name!r} is {text!r}; give a number.") from error
