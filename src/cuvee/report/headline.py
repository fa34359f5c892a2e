"""The verdict in words: one headline, one sentence a baseline, one on tokens saved."""

from cuvee.report.content import Comparison, ReportContent, VerdictSection
from cuvee.report.numbers import clean, decimals, interval, quantity, ratio


def headline(content: ReportContent) -> str:
    """Say in one sentence whether the chosen mixture helped."""
    if content.headline is not None:
        return clean(content.headline)
    first = _first_total(content)
    if first is None:
        return "No verdict yet: the chosen mixture has not been validated."
    name = _called(first.baseline)
    if first.word == "cannot be told apart":
        return f"The chosen mixture cannot be told apart from {name}."
    return f"The chosen mixture is {first.word} than {name}."


def findings(content: ReportContent) -> tuple[str, ...]:
    """Say what stands behind the headline, with numbers and intervals, one sentence each."""
    verdict = content.verdict
    if verdict is None:
        return ()
    sentences = [_finding(row, verdict) for row in verdict.totals()]
    if verdict.noise is not None:
        sentences.append(
            f"Noise floor: from seed to seed a mixture's loss has a standard deviation of "
            f"{decimals(verdict.noise, 4)} bits per byte."
        )
    equivalent = _equivalent(verdict)
    return (*sentences, equivalent) if equivalent else tuple(sentences)


def scope(verdict: VerdictSection) -> str:
    """Say what was judged: size, tokens, seeds and the meaning of the intervals."""
    seeds = "1 seed" if verdict.n_seeds == 1 else f"{verdict.n_seeds} paired seeds"
    return (
        f"Models of {verdict.size} parameters trained on {quantity(verdict.n_tokens)} tokens of "
        f"each mixture, {seeds}, judged on the verdict half, which no earlier stage has read. "
        f"Intervals cover {100 * verdict.confidence:g}%."
    )


def _first_total(content: ReportContent) -> Comparison | None:
    totals = content.verdict.totals() if content.verdict else ()
    natural = [row for row in totals if row.baseline == "natural"]
    return next(iter(natural or totals), None)


def _called(baseline: str) -> str:
    known = {
        "natural": "the natural one",
        "uniform": "the uniform one",
        "best-sampled": "the best sampled one",
    }
    return known.get(baseline, f"the mixture {clean(baseline)!r}")


def _finding(row: Comparison, verdict: VerdictSection) -> str:
    name = _called(row.baseline)
    if row.difference is None:
        return f"Against {name}: {row.word} ({clean(row.reason) or 'every run diverged'})."
    if row.low is None or row.high is None:
        sure = clean(row.reason) or "no interval"
    else:
        ends = interval(row.low, row.high)
        if row.word != "cannot be told apart" and row.low * row.high > 0:
            low, high = sorted((abs(row.low), abs(row.high)))
            ends = interval(low, high)
        sure = f"{100 * verdict.confidence:g}% interval {ends}"
    if row.word == "cannot be told apart":
        size = f"difference {decimals(row.difference)} bits per byte"
        return f"Against {name}: cannot be told apart, {size} ({sure})."
    side = "lower" if row.difference < 0 else "higher"
    size = f"{decimals(abs(row.difference))} bits per byte {side}"
    return f"Against {name}: {row.word}, {size} ({sure})."


def _equivalent(verdict: VerdictSection) -> str:
    found = verdict.equivalent
    if found is None:
        return ""
    reach = f"the loss that the chosen one has after {quantity(verdict.n_tokens)}"
    why = f": {clean(found.reason)}" if found.reason else ""
    if found.status == "below range":
        return f"The natural mixture reached {reach} before its first measured point{why}."
    if found.n_tokens is None:
        return f"The natural mixture is not expected to reach {reach}{why}."
    factor = ratio(found.n_tokens / verdict.n_tokens)
    sure = ""
    if found.low is not None and found.high is not None:
        sure = f", interval {quantity(found.low)} to {quantity(found.high)}"
    extrapolated = found.status == "extrapolated"
    basis = ", by the law fitted to its trajectory" if extrapolated else ""
    return (
        f"The natural mixture would need {quantity(found.n_tokens)} tokens, {factor} times as "
        f"many, to reach {reach}{sure}{basis}."
    )
