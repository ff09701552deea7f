"""How the candidates of a forecast in Lagrangian coordinates are weighed: what moves, and what stands."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from sa_nowcast.models.candidates import MOVING

# Logit that what stands gains with each doubling: motions end, seasons and roads do not. In training, and in forecasts:
# synthetic fields have few that stand, and training makes up for what it sees of it.
_STANDS: Final = (0.3, 0.6)
_LOST: Final = 32.0  # pixels of displacement over which a pattern that stands loses its use in what moves
# Share of their errors that mixtures which move and stand must differ by for a trial to tell, and patches that are few.
_LITTLE: Final = (0.3, 100)
_LEAST_SHARE: Final = 1e-3


def shares(at_first: Tensor, learned: Tensor, stands: Tensor, step: int, training: bool) -> tuple[Tensor, Tensor]:
    """Return the shares of what moves, (B, MOVING, h, w), and of what stands, (B, STANDING, h, w), by their logits.

    The first sum to one, the second to how much of the forecast stands; `stands` is a logit that is added to it.
    """
    moving, standing = _parts(at_first, learned, step)
    likes = torch.lerp(_likes(at_first), _likes(at_first + learned), _soon(step))
    share = torch.sigmoid(likes + stands + _STANDS[0 if training else 1] * math.log2(step + 1))[:, None]
    return moving, standing * share


def told_by_mixtures(at_first: Tensor, learned: Tensor, products: Tensor, step: int) -> Tensor:
    """Return how much more stands than `at_first` says, (B,), as a logit, by trials of mixtures at a step.

    It is the share that the mixture of what stands should have had beside that of what moves, by least squares, given
    the mean products of the candidates' errors, (B, candidates, candidates). Where both are about the same, that share
    is taken for what it would be without.
    """
    moves, stands = (part.mean((2, 3)) for part in _parts(at_first, learned, step))
    of_moves, of_stands = products[:, :, :MOVING] @ moves[..., None], products[:, :, MOVING:] @ stands[..., None]
    both = (of_stands[:, :MOVING, 0] * moves).sum(1)
    error, still = (of_moves[:, :MOVING, 0] * moves).sum(1), (of_stands[:, MOVING:, 0] * stands).sum(1)
    before = _likes(at_first).mean((1, 2))
    little = (_LITTLE[0] + _LITTLE[1] / at_first[0, 0].numel()) * (error + still) + 1e-9
    share = (error - both + little * before.sigmoid()) / (error + still - 2 * both + little)
    return torch.logit(share.clamp(_LEAST_SHARE, 1 - _LEAST_SHARE)) - before


def _parts(at_first: Tensor, learned: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Return weights of what moves, and of what stands, that each sum to one."""
    standing = torch.softmax(at_first[:, MOVING:] + learned[:, MOVING:] * _soon(step), 1)
    return torch.softmax(moving_logits(at_first, learned, step), 1), standing


def _soon(step: int) -> float:
    """Return how much of a say the network has in what stands, and in how much of it.

    Far ahead, it has one in how what moves is smoothed; what stands is for the history to tell: in many fields that
    are no rain no training shows it.
    """
    return float((1 + step) ** -2)


def moving_logits(at_first: Tensor, learned: Tensor, step: int) -> Tensor:
    """Return the logits of what moves, (B, MOVING, h, w)."""
    return at_first[:, :MOVING] + learned[:, :MOVING] / (1 + math.log2(step + 1))


def _likes(logits: Tensor) -> Tensor:
    """Return the logit of what stands beside what moves, (B, h, w)."""
    return torch.logsumexp(logits[:, MOVING:], 1) - torch.logsumexp(logits[:, :MOVING], 1)


def lost(speed: Tensor, step: int) -> Tensor:
    """Return the logit that a pattern which stands loses as what moves goes on at a speed (B, 1), (B, 1, 1)."""
    return 0.5 * step * (step + 1) * (speed / _LOST).square()[..., None]
