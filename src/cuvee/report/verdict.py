"""The verdict of validate as the report's section."""

from cuvee.report.content import Comparison, EquivalentTokens, VerdictSection
from cuvee.validate.accuracy import AccuracyRow
from cuvee.validate.compare import TOTAL, Verdict
from cuvee.validate.equivalent import EquivalentTokens as MeasuredEquivalent


def verdict_section(
    verdict: Verdict,
    equivalent: MeasuredEquivalent | None,
    *,
    size: str,
    n_tokens: int,
    accuracies: tuple[AccuracyRow, ...] = (),
) -> VerdictSection:
    """Take over a verdict.

    Args:
        verdict: Comparisons of the chosen mixture with every baseline.
        equivalent: Tokens the natural mixture would need; None where that was not asked.
        size: Size of the models judged, such as ``0.8m``.
        n_tokens: Tokens each of them was trained on.
        accuracies: On the tasks among the targets.
    """
    return VerdictSection(
        size=size,
        n_tokens=n_tokens,
        n_seeds=max((row.n_seeds for row in verdict.rows), default=0),
        confidence=verdict.confidence,
        comparisons=tuple(
            Comparison(
                baseline=row.baseline,
                target=None if row.target == TOTAL else row.target,
                difference=row.difference_bpb,
                low=row.low_bpb,
                high=row.high_bpb,
                word=row.word,
                reason=row.reason,
            )
            for row in verdict.rows
        ),
        equivalent=None
        if equivalent is None
        else EquivalentTokens(
            status=equivalent.status,
            n_tokens=equivalent.n_tokens,
            low=equivalent.low,
            high=equivalent.high,
            reason=equivalent.reason,
        ),
        accuracies=accuracies,
        noise=verdict.noise_bpb.get(TOTAL),
    )
