"""A dataset of the user's read through once on the host: its size, its labels, what is broken."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.data.errors import unreadable, words
from mpt.data.left_out import LeftOut
from mpt.data.pipeline import PARALLEL_BATCHES
from mpt.errors import ConfigurationError
from mpt.stall import StallWatch, give_up, stalled

if TYPE_CHECKING:
    import tensorflow as tf

REASONS = ("", "NaN", "infinity", "a number beyond 32 bits", "a label out of range")

ELEMENTS_A_CALL = 100
"""Elements read before Python, and so Ctrl-C, has its turn."""

STUCK = 1000
"""More elements in a row than this, and than the dataset says it has, that fail with words which
others of that row have failed with, none between them that could be made: the dataset is taken for
one that always fails at the same places."""

SURPLUS = 10
"""Of a dataset without end, as many times the rows asked for are read to find enough good ones."""


@dataclass(frozen=True)
class Source:
    """A dataset from Python.

    Attributes:
        dataset: its elements are (x, y[, sample_weight]): single examples, or batches of them.
        role: training or validation.
    """

    dataset: tf.data.Dataset
    role: str
    batched: bool

    @property
    def labelled(self) -> bool:
        """Whether y is one tensor of integers: classes."""
        import tensorflow as tf

        y = self.dataset.element_spec[1]
        return isinstance(y, tf.TensorSpec) and y.dtype.is_integer

    def name(self, element: int, row: int = 0) -> str:
        """What to call row `row` of element number `element`, both from 0."""
        inside = f"row {row} of batch" if self.batched else "example"
        return f"{inside} {element} of the {self.role} dataset"

    def element(self, number: int) -> str:
        """What to call element `number`."""
        kind = "batch" if self.batched else "example"
        return f"{kind} {number} of the {self.role} dataset"


@dataclass(frozen=True)
class Found:
    """What a scan found: usable rows, and the lowest and highest label among them."""

    rows: int
    lowest: int
    highest: int


def scan(
    source: Source,
    *,
    limit: int | None,
    classes: int | None,
    left_out: LeftOut | None,
    stall_seconds: float,
) -> Found:
    """Read `source` to its end, or until `limit` usable rows are found.

    Args:
        limit: None reads to the end.
        classes: labels must be in [0, classes) where broken rows are looked for.
        left_out: takes what is broken; None takes all rows for usable, and raises where an element
            cannot be made.
        stall_seconds: the process ends where an element takes longer.

    Raises:
        ConfigurationError: an element that cannot be made, as above; a dataset that does not get
            past one, or that has no end and too few usable rows.
    """
    import tensorflow as tf

    reading = _Reading(source, limit, classes, check=left_out is not None)
    failures = _Failures()
    with StallWatch(stall_seconds, reading.position, lambda waited: _give_up(reading, waited)):
        while not reading.enough():
            try:
                codes = reading.advance()
            except tf.errors.OutOfRangeError:
                break
            except tf.errors.ResourceExhaustedError:
                raise
            except tf.errors.OpError as error:
                number, said = reading.elements, words(error)
                element = source.element(number)
                if left_out is None:
                    raise unreadable(element, error, where="dataset.function", skip=True) from None
                left_out.add(f"{element}: {said}", rows=reading.skip_one())
                _refuse_stuck(source, element, said, failures.count(number, said))
                _refuse_hopeless(source, reading, limit, left_out)
                continue
            if left_out is not None:
                for row in np.flatnonzero(codes):
                    name = source.name(reading.elements - 1, int(row))
                    left_out.add(f"{name}: {REASONS[codes[row]]}")
                _refuse_hopeless(source, reading, limit, left_out)
    if left_out is not None:
        left_out.of += reading.rows
    return reading.found()


def usable(source: Source, batch_size: int, classes: int | None) -> Source:
    """`source` without what `scan` finds broken, in batches of any size."""
    dataset = source.dataset.ignore_errors()
    if not source.batched:
        dataset = dataset.batch(batch_size)
    labelled = source.labelled

    def keep(*batch: Any) -> Any:
        import tensorflow as tf

        good = _reasons(batch, classes, labelled) == 0
        return tf.nest.map_structure(lambda part: tf.boolean_mask(part, good), batch)

    dataset = dataset.map(keep, num_parallel_calls=PARALLEL_BATCHES, deterministic=True)
    return Source(dataset, source.role, batched=True)


def first_unreadable(sources: Sequence[Source], seconds: float = 60) -> str | None:
    """The name of the first element that cannot be made; None where none is found in `seconds`."""
    found: list[str] = []
    leave = threading.Event()
    # In a thread, for the dataset may not answer at all.
    looking = threading.Thread(target=_look, args=(sources, found, leave), daemon=True)
    looking.start()
    looking.join(seconds)
    leave.set()
    return found[0] if found else None


def _look(sources: Sequence[Source], found: list[str], leave: threading.Event) -> None:
    import tensorflow as tf

    for source in sources:
        element = 0
        try:
            with tf.device("CPU:0"):
                for _ in source.dataset:
                    if leave.is_set():
                        return
                    element += 1
        except tf.errors.OpError:
            found.append(source.element(element))
            return


class _Failures:
    """The elements that fail one after the other, and what they say.

    Files that are not there say their names, so that only words which come again are a sign that
    the dataset does not get on.
    """

    def __init__(self) -> None:
        self._last = -1
        self._heard: set[str] = set()
        self._times = 0

    def count(self, number: int, said: str) -> int:
        """Failures in a row, element `number` the last, since one had words new to the row."""
        if number != self._last + 1:
            self._heard.clear()
        self._times = self._times + 1 if said in self._heard else 1
        self._heard.add(said)
        self._last = number
        return self._times


class _Reading:
    """An iterator over a source, and what was seen of it. Counters are read from other threads."""

    def __init__(self, source: Source, limit: int | None, classes: int | None, *, check: bool):
        import tensorflow as tf

        self.source = source
        self._limit = np.iinfo(np.int64).max if limit is None else limit
        self._classes = classes
        self._check = check
        self._failed = 0
        self._failed_rows = 0
        with tf.device("CPU:0"):
            self._iterator = iter(source.dataset)
            start = {"elements": 0, "rows": 0, "good": 0, "largest": 0}
            start |= {"lowest": np.iinfo(np.int64).max, "highest": -1}
            self._seen = {k: tf.Variable(v, dtype=tf.int64, name=k) for k, v in start.items()}
        self._read = tf.function(self._read_on, autograph=False)

    def advance(self) -> np.ndarray:
        """Read on, as far as one call goes: int32 (rows,), a code for each row of the last element.

        It ends at the first element that has a row whose code is not 0.
        """
        import tensorflow as tf

        with tf.device("CPU:0"):
            return self._read(self._iterator).numpy()

    def enough(self) -> bool:
        """Whether `limit` usable rows were seen."""
        return self._value("good") >= self._limit

    def position(self) -> int:
        """Elements that came or failed."""
        return self.elements

    @property
    def elements(self) -> int:
        """The number of the element to come."""
        return self._value("elements") + self._failed

    @property
    def rows(self) -> int:
        """Rows seen, those of elements that failed included."""
        return self._value("rows") + self._failed_rows

    def skip_one(self) -> int:
        """Count an element that failed; its rows, which are a guess where batches differ."""
        import tensorflow as tf

        self._failed += 1
        static = tf.nest.flatten(self.source.dataset.element_spec)[0].shape[:1]
        rows = 1
        if self.source.batched:
            rows = static[0] or max(1, self._value("largest"))
        self._failed_rows += rows
        return rows

    def found(self) -> Found:
        """What was seen."""
        rows = min(self._value("good"), self._limit)
        return Found(rows, self._value("lowest"), self._value("highest"))

    def _value(self, name: str) -> int:
        return int(self._seen[name].numpy())

    def _read_on(self, iterator: Any) -> tf.Tensor:
        import tensorflow as tf

        def going_on(count: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
            fine = tf.reduce_all(codes == 0) & (self._seen["good"] < self._limit)
            return fine & (count < ELEMENTS_A_CALL)

        def body(count: tf.Tensor, codes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return count + 1, self._note(next(iterator))

        _, codes = tf.while_loop(
            going_on,
            body,
            (tf.constant(0), tf.zeros([0], tf.int32)),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None])),
            parallel_iterations=1,
        )
        return codes

    def _note(self, element: Any) -> tf.Tensor:
        """Count `element`; the codes of its rows."""
        import tensorflow as tf

        source, seen = self.source, self._seen
        rows = tf.constant(1, tf.int64)
        if source.batched:
            rows = tf.shape(tf.nest.flatten(element)[0], tf.int64)[0]
        codes = tf.zeros([rows], tf.int32)
        if self._check:
            batch = element
            if not source.batched:
                batch = tf.nest.map_structure(lambda part: part[tf.newaxis], element)
            codes = _reasons(batch, self._classes, source.labelled)
        # The counts do not follow from the element, and would not wait to see whether it fails.
        with tf.control_dependencies(tf.nest.flatten(element, expand_composites=True)):
            seen["elements"].assign_add(1)
            seen["rows"].assign_add(rows)
            seen["largest"].assign(tf.maximum(seen["largest"], rows))
            seen["good"].assign_add(tf.math.count_nonzero(codes == 0))
            if source.labelled:
                labels = element[1] if source.batched else element[1][tf.newaxis]
                labels = tf.cast(tf.boolean_mask(labels, codes == 0), tf.int64)
                seen["lowest"].assign(tf.minimum(seen["lowest"], tf.reduce_min(labels)))
                seen["highest"].assign(tf.maximum(seen["highest"], tf.reduce_max(labels)))
        return codes


def _reasons(batch: Any, classes: int | None, labelled: bool) -> tf.Tensor:
    """An index into `REASONS` for each row of `batch`: int32 (rows,)."""
    import tensorflow as tf

    codes = tf.zeros(tf.shape(tf.nest.flatten(batch)[0])[:1], tf.int32)

    def mark(bad: tf.Tensor, reason: str) -> tf.Tensor:
        any_bad = tf.reduce_any(bad, axis=list(range(1, bad.shape.rank)))
        return tf.where((codes == 0) & any_bad, REASONS.index(reason), codes)

    for part in tf.nest.flatten(batch):
        if part.dtype.is_floating:
            part = tf.cast(part, tf.float32)
            codes = mark(tf.math.is_nan(part), "NaN")
            codes = mark(tf.math.is_inf(part), "infinity")
        elif part.dtype in (tf.int64, tf.uint32, tf.uint64):
            wide = tf.cast(part, tf.float64)
            beyond = (wide > np.iinfo(np.int32).max) | (wide < np.iinfo(np.int32).min)
            codes = mark(beyond, "a number beyond 32 bits")
    if labelled:
        labels = tf.cast(batch[1], tf.int64)
        outside = labels < 0 if classes is None else (labels < 0) | (labels >= classes)
        codes = mark(outside, "a label out of range")
    return codes


def _give_up(reading: _Reading, waited: float) -> None:
    give_up(stalled(reading.source.element(reading.elements), waited))


def _refuse_stuck(source: Source, element: str, said: str, times: int) -> None:
    if times > max(STUCK, int(source.dataset.cardinality())):
        raise ConfigurationError(
            f"{times} elements in a row, up to {element}, could not be read: {said}",
            where="dataset.function",
            remedy="see what the dataset reads: it may fail at the same place for ever",
        )


def _refuse_hopeless(
    source: Source, reading: _Reading, limit: int | None, left_out: LeftOut
) -> None:
    import tensorflow as tf

    endless = int(source.dataset.cardinality()) == tf.data.INFINITE_CARDINALITY
    if not endless or limit is None or reading.enough():
        return
    if reading.rows > SURPLUS * (limit + STUCK):
        raise ConfigurationError(
            f"only {reading.found().rows} of the first {reading.rows} rows of the {source.role} "
            f"dataset are usable, and {limit} are asked for; the first that is not: "
            f"{left_out.names[0]}",
            where="dataset.examples",
            remedy="take fewer examples, or repair the data",
        )
