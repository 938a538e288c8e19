"""Kept by identity: a card that was read again is another card."""

from __future__ import annotations

from sim.foundation.identity import kept_by_identity


class Card:
    """Alike with all others, as two readings of one file are."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Card)

    __hash__ = None  # type: ignore[assignment]


def test_a_result_is_kept_for_the_same_card_and_equal_values() -> None:
    asked: list[tuple[Card, int]] = []

    @kept_by_identity
    def looked_up(card: Card, batch: int) -> int:
        asked.append((card, batch))
        return len(asked)

    first, again = Card(), Card()
    assert looked_up(first, 10**6) == looked_up(first, 10**3 * 10**3) == 1
    assert looked_up(first, 2) == 2
    assert looked_up(again, 2) == 3
    assert looked_up(first, 2) == 2
    assert asked[0][0] is first
