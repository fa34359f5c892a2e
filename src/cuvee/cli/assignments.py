"""Options of the form NAME=VALUE, given once for each name."""

from collections.abc import Sequence

from cuvee.errors import ConfigError


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


def _number(option: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{option} of {name!r} is {text!r}; give a number.") from error
