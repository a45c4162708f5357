"""What an input pipeline says when a batch of it cannot be made, in words for the user."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mpt.errors import ConfigurationError
from mpt.stall import awaiting

if TYPE_CHECKING:
    from mpt.data.examples import Data

LONGEST = 200
"""Characters of TensorFlow's own words; some quote a whole file."""

# The operation that asks for the next batch, in whichever form: an assertion of the model's may
# quote the name of a tensor that came from it, but only its own failure puts it in such brackets.
_ASKED = re.compile(r"\[\[[^\]]*IteratorGetNext[^\]]*\]\]|\[Op:\w*IteratorGetNext")
_PREAMBLE = re.compile(
    r"Graph execution error:|Detected at node |  File |<stack traces unavailable>|\d+ root error"
)
_NOISE = re.compile(
    r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\](?: name: ?)?|^ *\(\d+\) [A-Z_]+: "
    r"|Error in user-defined function passed to \S+ transformation with iterator: \S+: "
)


_SHAPES = re.compile(r"Cannot (batch tensors|add tensor to the batch)")


def words(error: BaseException) -> str:
    """The first line of TensorFlow's own words, without the names of its nodes."""
    for line in str(error).splitlines():
        said = _NOISE.sub("", line).strip()
        if said and not _PREAMBLE.match(line):
            return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."
    return type(error).__name__


def unreadable(what: str, error: BaseException, *, where: str, skip: bool) -> ConfigurationError:
    """The error for `what`, which could not be made.

    Args:
        what: it is, as the beginning of a sentence.
        error: TensorFlow's.
        where: key of the configuration.
        skip: whether dataset.on_error=skip would leave it out.
    """
    import tensorflow as tf

    said = words(error)
    remedy = "see what the dataset reads"
    if isinstance(error, tf.errors.DataLossError):
        remedy = "write the file again"
    if _SHAPES.match(said):
        remedy = "give all examples one shape: resize or pad them in the function"
    elif skip:
        remedy += ", or set dataset.on_error=skip to leave out what cannot be read"
    return ConfigurationError(f"{what} could not be read: {said}", where=where, remedy=remedy)


def input_error(error: BaseException, data: Data) -> ConfigurationError | None:
    """What `error` says in words for the user, where it came from the input pipeline; else None.

    To name the example, a dataset from Python is read again, for a minute at most.

    Args:
        error: raised by `next` on an iterator of `data`, in eager mode or in a tf.function.
        data: what was read.
    """
    import tensorflow as tf

    if isinstance(error, StopIteration) or (
        isinstance(error, tf.errors.OutOfRangeError) and _ASKED.search(str(error))
    ):
        return ConfigurationError(
            f"dataset {data.name} ended, where it should begin again",
            where="dataset",
            remedy="return a dataset that can be read any number of times: from_generator takes a "
            "function that makes a new generator each time",
        )
    if not isinstance(error, tf.errors.OpError) or not _ASKED.search(str(error)):
        return None
    if isinstance(error, tf.errors.ResourceExhaustedError):  # out of memory, wherever it was
        return None
    place = data.locate() if data.locate is not None else None
    what = place or f"a batch of dataset {data.name}"
    return unreadable(what, error, where="dataset", skip=data.locate is not None)


def first_batch(data: Data) -> Any:
    """The first batch of `data.train`, (x, y[, sample_weight]).

    Raises:
        ConfigurationError: it cannot be made. Where it does not come in `data.stall_seconds`, the
            process ends with that error.
    """
    import tensorflow as tf

    try:
        with awaiting("the first batch", data.stall_seconds):
            return next(iter(data.train))
    except (tf.errors.OpError, StopIteration) as error:
        found = input_error(error, data)
        if found is None:
            raise
        raise found from None
