"""How numbers and names are written for people: digits, units, signs, names made harmless."""

import math
import unicodedata

MINUS = "\N{MINUS SIGN}"
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def share(value: float) -> str:
    """Write a share as a percentage with two decimals.

    Example:
        >>> share(0.12345), share(0.0)
        ('12.35%', '0')
    """
    return "0" if value == 0 else f"{100 * value:.2f}%"


def count(value: float) -> str:
    """Write a whole number with thousands separated.

    Example:
        >>> count(1234567)
        '1,234,567'
    """
    return f"{round(value):,}"


def quantity(value: float) -> str:
    """Write a number of tokens to three significant digits.

    Example:
        >>> quantity(999), quantity(61_440), quantity(2_000_000), quantity(15e9)
        ('999', '61.4k', '2.00M', '15.0B')
    """
    # 999,950 is "1.00M", not "1000k": the unit is chosen after rounding to three digits.
    rounded = float(f"{value:.3g}")
    for size, unit in _UNITS:
        if abs(rounded) >= size:
            scaled = rounded / size
            decimals = 2 - math.floor(math.log10(abs(scaled)))
            return f"{scaled:.{decimals}f}{unit}"
    return f"{rounded:.0f}"


def megabytes(n_bytes: float) -> str:
    """Write bytes as megabytes (a million bytes) with one decimal.

    Example:
        >>> megabytes(12_345_678)
        '12.3'
    """
    return f"{n_bytes / 1e6:,.1f}"


def decimals(value: float, places: int = 3) -> str:
    """Write a loss, a correlation or a number of epochs with a fixed number of decimals.

    Example:
        >>> decimals(1.23456), decimals(-0.5, 2), decimals(float("nan"))
        ('1.235', '−0.50', 'n/a')
    """
    if not math.isfinite(value):
        return "n/a"
    text = f"{abs(value):.{places}f}"
    return (MINUS if value < 0 and float(text) != 0 else "") + text


def difference(value: float, places: int = 3) -> str:
    """Write a difference with its sign.

    Example:
        >>> difference(-0.1184), difference(0.02), difference(-0.0001)
        ('−0.118', '+0.020', '0.000')
    """
    text = decimals(value, places)
    return "+" + text if value > 0 and float(text) != 0 else text


def duration(seconds: float) -> str:
    """Write a time in the two units that matter.

    Example:
        >>> duration(7.4), duration(95), duration(7260), duration(200_000)
        ('7 s', '1 min 35 s', '2 h 1 min', '2 d 7 h')
    """
    whole = round(seconds)
    for size, unit, smaller, smaller_unit in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {smaller_unit}"
    return f"{whole} s"


def interval(low: float | None, high: float | None, places: int = 3) -> str:
    """Write an interval, or say that there is none.

    Example:
        >>> interval(-0.131, -0.105), interval(None, None)
        ('−0.131 to −0.105', 'no interval')
    """
    if low is None or high is None:
        return "no interval"
    return f"{decimals(low, places)} to {decimals(high, places)}"


def ratio(value: float) -> str:
    """Write a ratio such as a domain's share over its natural one.

    Example:
        >>> ratio(2.5), ratio(0.04), ratio(31.4)
        ('2.50', '0.04', '31.4')
    """
    if not math.isfinite(value):
        return "new"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def clean(text: str) -> str:
    r"""Make a name harmless to show: one line, no control characters, no direction overrides.

    Markup is not touched; escaping it is the page's matter.

    Example:
        >>> clean("a\tb\x00")
        'a b\ufffd'
    """
    return "".join(_clean_character(character) for character in text)


def clean_lines(text: str) -> str:
    r"""Make a text of several lines harmless to show, its line ends and indents kept.

    Example:
        >>> clean_lines("a:\n  b\x1b: 1")
        'a:\n  b\ufffd: 1'
    """
    return "\n".join(map(clean, text.split("\n")))


def shorten(text: str, length: int) -> str:
    """Clean a name and cut its middle out where it is too long for a chart.

    Example:
        >>> shorten("a rather long name of a domain", 15)
        'a rathe… domain'
    """
    name = clean(text)
    if len(name) <= length:
        return name
    tail = (length - 1) // 2
    return f"{name[: length - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{name[len(name) - tail :]}"


def _clean_character(character: str) -> str:
    if character.isspace():
        return " "
    bad = unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI_CONTROLS
    return "\N{REPLACEMENT CHARACTER}" if bad else character
