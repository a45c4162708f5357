"""To which checkpoint the members of a team go back together."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpt.rollback import last_good


def member(rank: int, size: int, chief_found: int | None, lacking: bool = False) -> Any:
    """A team as one member sees it: what the others say in an exchange."""
    return SimpleNamespace(
        rank=rank,
        size=size,
        is_chief=rank == 0,
        exchange=lambda value: [chief_found, *[None] * (size - 1)],
        any=lambda flag: (flag or lacking,),
    )


def checkpoints(healthy: int | None, there: tuple[int, ...]) -> Any:
    def found(step: int | None) -> Any:
        return SimpleNamespace(step=step) if step in there else None

    return SimpleNamespace(last_healthy=lambda: found(healthy), at=found)


def told(text: str) -> None:
    raise AssertionError(text)


def test_one_alone_takes_its_last_healthy_one() -> None:
    assert last_good(checkpoints(6, (6, 9)), member(0, 1, None), told).step == 6
    assert last_good(checkpoints(None, (9,)), member(0, 1, None), told) is None


@pytest.mark.parametrize("rank", [0, 1])
def test_all_take_the_chief_s(rank: int) -> None:
    # A member's own last healthy one is another: it has read none of them.
    own = checkpoints(6 if rank == 0 else 3, (3, 6))
    assert last_good(own, member(rank, 2, 6), told).step == 6


@pytest.mark.parametrize("rank", [0, 1])
def test_none_goes_back_where_the_chief_finds_none(rank: int) -> None:
    assert last_good(checkpoints(None, (3,)), member(rank, 2, None), told) is None


@pytest.mark.parametrize(("rank", "there"), [(0, (6,)), (1, ())])
def test_none_goes_back_where_one_member_lacks_it(rank: int, there: tuple[int, ...]) -> None:
    said: list[str] = []
    found = last_good(checkpoints(6, there), member(rank, 2, 6, lacking=True), said.append)
    assert found is None
    assert len(said) == 1
    assert "checkpoint of step 6" in said[0]
