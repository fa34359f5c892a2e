"""A training step of a stack: each member's own rate, norm, decay and fate.

AdamW as `torch.optim.AdamW` computes it and clipping as `torch.nn.utils.clip_grad_norm_` does, with
a factor for every member in place of one number. A member that diverges keeps the parameters it had
before that step, as a run alone would; nobody waits for the card to say so: the choice is made
there, and read when somebody asks.

Shapes in comments: M members, B sequences of each, T tokens.
"""

import logging
import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from cuvee.proxy.record import SPIKE
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.stack import StackedModel
from cuvee.proxy.train import learning_rate_at

logger = logging.getLogger(__name__)

_BETA1, _BETA2, _EPSILON = 0.9, 0.95, 1e-8
_CLIP_EPSILON = 1e-6
_PASS_TOKENS = {"cpu": 2**14, "cuda": 2**19}
"""Tokens of all members that pass forward and backward at once: enough to fill a card."""

Hidden = Callable[[Tensor, Tensor], Tensor]


class StackedStep:
    """Losses, gradients and updates of all members, and which of them are still running."""

    def __init__(
        self,
        model: StackedModel,
        runs: Sequence[TrainingSpec],
        *,
        compiled: bool = False,
        piece_tokens: int | None = None,
    ) -> None:
        """Take the optimiser's memory.

        Args:
            model: On its device, in its type, with the members' weights.
            runs: (M,) specs of one shape; rate, decay, clip and schedule are each one's own.
            compiled: Compile blocks, softmax and update (`can_compile`).
            piece_tokens: Tokens of each member that pass forward and backward at once; None for as
                many as fill the device.
        """
        run = runs[0]
        device, kind = model.embedding.device, model.embedding.dtype
        self._model = model
        self._compiled = compiled
        filling = _PASS_TOKENS["cuda" if device.type == "cuda" else "cpu"] // len(runs)
        self._piece = max(1, (piece_tokens or filling) // run.context)
        self._shapes: set[torch.Size] = set()
        self._hidden: Hidden = model.hidden
        if compiled:
            self._hidden = torch.compile(model.hidden, dynamic=False)
        self._update = _compiled_update() if compiled else _update
        self._parameters = list(model.parameters())
        self._moments = [(torch.zeros_like(one), torch.zeros_like(one)) for one in self._parameters]
        n_steps = -(-run.n_sequences // run.batch_sequences)
        rates = [[learning_rate_at(n, n_steps, one) for one in runs] for n in range(1, n_steps + 1)]
        # Rate, size of a step and root of the second moment's correction, by step.
        steps = torch.arange(1, n_steps + 1, dtype=torch.float64)
        table = torch.tensor(rates, dtype=torch.float64)
        self._rates = table.to(device, kind)
        self._sizes = (table / (1 - _BETA1**steps)[:, None]).to(device, kind)
        self._corrections = (1 - _BETA2**steps).sqrt().to(device, kind)
        self._decay, self._clip = (
            torch.tensor(values, dtype=kind, device=device)
            for values in ([one.weight_decay for one in runs], [one.clip for one in runs])
        )
        untrained = math.log(model.embedding.shape[1])
        self._spike = torch.full(
            (len(runs),), SPIKE * untrained, dtype=torch.float64, device=device
        )
        self._running = torch.ones(len(runs), dtype=torch.bool, device=device)
        self._n_losses = torch.zeros(len(runs), dtype=torch.int64, device=device)
        self._losses: list[Tensor] = []

    @property
    def running(self) -> list[bool]:
        """(M,) members that have not diverged."""
        running: list[bool] = self._running.tolist()
        return running

    @property
    def losses(self) -> list[list[float]]:
        """Training losses of each member up to the step it diverged at, in nats per token."""
        if not self._losses:
            return [[] for _ in range(self._model.n_members)]
        table: list[list[float]] = torch.stack(self._losses, 1).tolist()
        return [row[:n] for row, n in zip(table, self._n_losses.tolist(), strict=True)]

    def __call__(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> None:
        """Take one step with every member that still runs.

        Args:
            tokens: (M, B, T) input ids, int64.
            segments: (M, B, T) number of the document window each token belongs to.
            targets: (M, B, T) ids to be predicted.
        """
        losses = self._first_or_later(tokens, segments, targets)
        gradients = [_gradient(one) for one in self._parameters]
        self._n_losses += self._running
        self._losses.append(losses)
        number = len(self._losses)
        if number == 1:
            # A continued model may be worse on new text than an untrained one.
            higher = torch.maximum(self._spike, SPIKE * losses.double())
            self._spike = torch.where(losses.isfinite(), higher, self._spike)
        norms = _norms(gradients)
        # not (loss < spike) is true of NaN as well
        self._running &= (losses.double() < self._spike) & norms.isfinite()
        factor = (self._clip / (norms + _CLIP_EPSILON)).clamp(max=1.0)
        self._apply(gradients, factor, number)
        for parameter in self._parameters:
            parameter.grad = None

    def _first_or_later(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> Tensor:
        """Compute losses and gradients, without compilation where the first step shows it fails."""
        if not self._compiled or self._losses:
            return self._gradients(tokens, segments, targets)
        try:
            return self._gradients(tokens, segments, targets)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.warning("torch.compile failed; the stack runs eagerly: %s", error)
        self._compiled, self._hidden, self._update = False, self._model.hidden, _update
        self._model.zero_grad()
        return self._gradients(tokens, segments, targets)

    def _gradients(self, tokens: Tensor, segments: Tensor, targets: Tensor) -> Tensor:
        """Leave gradients in ``grad``; return the (M,) mean losses."""
        pieces = (torch.split(part, self._piece, 1) for part in (tokens, segments, targets))
        scale = 1 / targets[0].numel()
        total = torch.zeros((), device=tokens.device)
        for ids, windows, wanted in zip(*pieces, strict=True):
            if not self._losses:
                self._shapes.add(ids.shape)
            # The last batch may be smaller; it is not worth another compilation.
            hidden = self._hidden if ids.shape in self._shapes else self._model.hidden
            losses = self._model.losses(
                hidden(ids, windows), wanted, scale=scale, compiled=self._compiled
            )
            losses.sum().backward()  # type: ignore[no-untyped-call]
            total = total + losses.detach()
        return total

    @torch.no_grad()
    def _apply(self, gradients: Sequence[Tensor], clip: Tensor, number: int) -> None:
        rate, size, correction = (
            table[number - 1] for table in (self._rates, self._sizes, self._corrections)
        )
        factors = (clip, 1 - rate * self._decay, size, correction)
        self._update(self._parameters, gradients, self._moments, factors, self._running)


def _update(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    moments: Sequence[tuple[Tensor, Tensor]],
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    running: Tensor,
) -> None:
    """Take AdamW's step on all parameters of the members that are running, in place.

    Args:
        parameters: (M, ...) each.
        gradients: Of the same shapes.
        moments: Mean and mean square of each one's gradients.
        factors: (M,) clip, what decay keeps of a matrix, and size of the step; and the root of the
            second moment's correction, a scalar.
        running: (M,) True where a member moves.
    """
    *by_member, correction = factors
    for parameter, gradient, (mean, square) in zip(parameters, gradients, moments, strict=True):
        shape = (-1, *[1] * (parameter.dim() - 1))
        clip, kept, size = (factor.view(shape) for factor in by_member)
        clipped = gradient * clip
        mean.lerp_(clipped, 1 - _BETA1)
        square.mul_(_BETA2).addcmul_(clipped, clipped, value=1 - _BETA2)
        is_matrix = parameter.dim() == 3  # gains are not decayed
        moved = parameter * kept if is_matrix else parameter
        moved = moved - size * mean / (square.sqrt() / correction + _EPSILON)
        parameter.copy_(torch.where(running.view(shape), moved, parameter))


@cache
def _compiled_update() -> Callable[..., None]:
    compiled: Callable[..., None] = torch.compile(_update, dynamic=False)
    return compiled


@cache
def can_compile(device: str) -> bool:
    """Tell whether torch.compile works on a device; it needs a C compiler and, on CUDA, Triton."""
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        logger.warning("torch.compile does not work here; stacks run eagerly: %s", error)
        return False
    return True


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return each member's gradient norm, (M,)."""
    each = [torch.linalg.vector_norm(one.flatten(1), dim=1) for one in gradients]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(each), dim=0)
    return norms


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "every parameter has its part in the loss"
    return parameter.grad
