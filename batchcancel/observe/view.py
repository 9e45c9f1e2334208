"""What the live view shows: a few short lines that fit any terminal. Pure."""

from __future__ import annotations

from itertools import chain
from typing import Final, NamedTuple

from batchcancel.model import PauseCause
from batchcancel.observe.tracker import Moment
from batchcancel.observe.words import (
    amount_texts,
    count_text,
    duration_text,
    is_cut,
    limit_texts,
    stopped_text,
    workers_text,
)

_BETWEEN: Final = "   "
_LONGEST_BAR: Final = 40
_SHORTEST_BAR: Final = 8
_FAINT: Final = "dim"


class Piece(NamedTuple):
    """Some words that stay together, and how they look."""

    text: str
    style: str = ""


Line = list[Piece]


def view(moment: Moment, *, width: int, height: int, has_keys: bool) -> list[Line]:
    """Lay a moment out.

    Args:
        moment: What is told.
        width: Columns of the terminal; no line is longer.
        height: Rows of the terminal; there are fewer lines, and the keys are the last to go.
        has_keys: Whether keys are listened to, so that they are worth a line.

    Returns:
        Lines of pieces that are written one after the other.
    """
    groups = [_how_far(moment, width), _counts(moment), _how_it_goes(moment), _money(moment)]
    body = list(chain.from_iterable(_flow(group, width) for group in groups))
    keys = _flow(_keys(moment), width) if has_keys else []
    most = max(1, height - 1)
    return [*body[: max(1, most - len(keys))], *keys][:most]


def _how_far(moment: Moment, width: int) -> Line:
    words = [
        Piece(f"{int(moment.share * 100)} %", "bold"),
        Piece(f"{moment.done:,} of {moment.total:,}"),
    ]
    if moment.eta_s is not None and moment.done < moment.total:
        words.append(Piece(f"{duration_text(moment.eta_s)} left"))
    room = width - sum(len(_BETWEEN) + len(piece.text) for piece in words)
    if room < _SHORTEST_BAR:
        return words
    length = min(_LONGEST_BAR, room)
    full = int(moment.share * length)
    # One piece to the flow, so that nothing comes between its halves.
    return [Piece("━" * full + "─" * (length - full), "green"), *words]


def _counts(moment: Moment) -> Line:
    return [Piece(count_text(one), one.style if one.number else _FAINT) for one in moment.counts]


def _how_it_goes(moment: Moment) -> Line:
    vitals = moment.vitals
    is_slowed = vitals.is_stopping or vitals.held_by is not None or is_cut(vitals)
    pieces = [
        Piece(f"{moment.rate:,.1f} a second"),
        Piece(f"{vitals.in_flight:,} in flight"),
        *(Piece(text, "yellow" if is_slowed else "") for text in limit_texts(moment)),
    ]
    if vitals.workers is not None and (text := workers_text(vitals)) is not None:
        pieces.append(Piece(text, "" if vitals.workers.processes else "yellow"))
    if moment.merchants_stopped:
        pieces.append(Piece(stopped_text(moment.merchants_stopped), "red"))
    return pieces


def _money(moment: Moment) -> Line:
    amounts = [Piece(text) for text in amount_texts(moment.vitals)]
    return [Piece("canceled so far", _FAINT), *amounts] if amounts else []


def _keys(moment: Moment) -> Line:
    if moment.goes_on and moment.vitals.is_stopping:
        return [Piece("q leave", _FAINT)]
    if moment.vitals.is_stopping:
        return [Piece("q stop at once", _FAINT)]
    is_paused = moment.vitals.held_by is PauseCause.BY_HAND
    return [
        Piece("p go on" if is_paused else "p pause", _FAINT),
        Piece("q leave" if moment.goes_on else "q stop", _FAINT),
    ]


def _flow(pieces: Line, width: int) -> list[Line]:
    """Fill lines with pieces; one that is longer than a line is cut."""
    lines: list[Line] = []
    room = -1
    for text, style in pieces:
        piece = Piece(text if len(text) <= width else f"{text[: width - 1]}…", style)
        if len(_BETWEEN) + len(piece.text) > room:
            lines.append([piece])
            room = width - len(piece.text)
        else:
            lines[-1] += [Piece(_BETWEEN), piece]
            room -= len(_BETWEEN) + len(piece.text)
    return lines
