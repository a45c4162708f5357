"""The search, against every oracle of a few elements and random ones of many."""

import itertools
import math
import random

import pytest

from mpt.bisection.search import Search, SpentError


class Oracle:
    """A test of sets that counts how often it is asked."""

    def __init__(self, passes):
        self._passes = passes
        self.asked = []

    def __call__(self, elements):
        self.asked.append(elements)
        return self._passes(elements)

    @property
    def different(self):
        return len(set(self.asked))


def search(oracle, ranking):
    found = Search(oracle)
    if found.grow(ranking):
        found.minimize()
    return found


def assert_minimal(found, passes):
    assert found.minimal
    assert passes(frozenset(found.best))
    for element in found.best:
        assert not passes(frozenset(found.best) - {element})


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_oracle_of_a_few_elements(count):
    """Monotone or not: what is found passes, and passes no more without any one element."""
    sets = [
        frozenset(chosen)
        for size in range(1, count + 1)
        for chosen in itertools.combinations(range(count), size)
    ]
    for answers in itertools.product([False, True], repeat=len(sets)):
        table = dict(zip(sets, answers, strict=True)) | {frozenset(): False}
        found = search(table.__getitem__, range(count))
        if found.best is None:
            assert not table[frozenset(range(count))]
        else:
            assert_minimal(found, table.__getitem__)


@pytest.mark.parametrize("seed", range(200))
def test_a_monotone_oracle_gives_one_of_its_minimal_sets(seed):
    draw = random.Random(seed)
    count = draw.randint(1, 40)
    ranking = draw.sample(range(count), count)
    causes = [frozenset(draw.sample(range(count), draw.randint(1, min(4, count))))]
    causes += [
        frozenset(draw.sample(range(count), min(3, count))) for _ in range(draw.randint(0, 2))
    ]
    oracle = Oracle(lambda kept: any(cause <= kept for cause in causes))
    found = search(oracle, ranking)
    assert_minimal(found, lambda kept: any(cause <= kept for cause in causes))
    assert frozenset(found.best) in causes


@pytest.mark.parametrize("seed", range(200))
def test_an_oracle_that_is_not_monotone(seed):
    """Some layers in float32 may be worse than fewer: their casts cost a run its luck."""
    memory = {frozenset(): False}
    draw = random.Random(seed)

    def passes(kept):
        return memory.setdefault(kept, draw.random() < 0.4)

    oracle = Oracle(passes)
    found = search(oracle, range(12))
    if found.best is None:
        assert {len(asked) for asked in oracle.asked} == {1, 2, 4, 8, 12}
    else:
        assert_minimal(found, passes)
    assert oracle.different <= 12 * 12 + 3 * 12 + 5


@pytest.mark.parametrize("place", [0, 1, 5, 17, 63])
def test_one_cause_takes_few_trials(place):
    oracle = Oracle(lambda kept: place in kept)
    assert search(oracle, range(64)).best == (place,)
    grown = math.ceil(math.log2(place + 1)) + 1
    assert oracle.different <= grown + 2 * math.log2(64)


def test_the_first_of_the_ranking_alone_is_one_trial():
    oracle = Oracle(lambda kept: "bad" in kept)
    found = search(oracle, ["bad", "good", "other"])
    assert (found.best, found.minimal) == (("bad",), True)
    assert oracle.asked == [frozenset({"bad"})]


def test_sets_grow_by_the_ranking_and_end_with_all():
    oracle = Oracle(lambda kept: False)
    assert not Search(oracle).grow("abcdef")
    assert [len(asked) for asked in oracle.asked] == [1, 2, 4, 6]
    assert oracle.asked[2] == frozenset("abcd")
    assert not Search(oracle).grow([])


@pytest.mark.parametrize("allowed", range(20))
def test_what_was_found_stays_when_no_more_may_be_tried(allowed):
    asked = []

    def passes(kept):
        if len(asked) == allowed:
            raise SpentError
        asked.append(kept)
        return {2, 9} <= kept

    found = Search(passes)
    try:
        found.grow(range(16))
        found.minimize()
    except SpentError:
        assert not found.minimal
    passed = [kept for kept in asked if {2, 9} <= kept]
    assert found.best is None if not passed else frozenset(found.best) == min(passed, key=len)
    assert found.minimal == (found.best is not None and set(found.best) == {2, 9})
