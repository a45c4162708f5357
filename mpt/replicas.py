"""Several replicas of one model, in this process and in others: their data and their differences.

Replicas take the same steps with the same weights, but each on its own rows of a batch. So what a
layer learns of its input, such as BatchNormalization's moving statistics, differs between them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mpt import packing
from mpt.errors import ConfigurationError
from mpt.variables import Variable, changed_by_a_step, components, parts
from mpt.workers import ALONE, Team

PREFETCHED = 4


def check_batch(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Refuse a batch that the replicas cannot share evenly: their losses would weigh differently.

    Raises:
        ConfigurationError: it is not a multiple of their number.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise ConfigurationError(
            f"batch_size={batch_size} cannot be shared evenly by {replicas} replicas.",
            where="batch_size",
            remedy=f"take a multiple of {replicas}",
        )


def iterate(
    dataset: tf.data.Dataset,
    strategy: tf.distribute.Strategy,
    team: Team = ALONE,
    *,
    own_rows: bool = False,
) -> Iterator[Any]:
    """One iterator over `dataset`, its batches split over the replicas, in order of their rows.

    Args:
        own_rows: a batch holds the rows of this member's replicas only.
    """
    if team.size > 1:
        local = strategy.num_replicas_in_sync // team.size
        among, first = (1, 0) if own_rows else (team.size, team.rank * local)
        shares = _shares(dataset, among * local, first, local)
        dataset = strategy.distribute_datasets_from_function(lambda _: shares)
    elif strategy.num_replicas_in_sync > 1:
        dataset = strategy.experimental_distribute_dataset(dataset)
    return iter(dataset)


def _shares(dataset: tf.data.Dataset, replicas: int, first: int, local: int) -> tf.data.Dataset:
    """Of each batch the rows of `local` replicas from number `first` on, an element for each."""

    def share(batch: Any, replica: Any) -> Any:
        def rows(leaf: Any) -> Any:
            if isinstance(leaf, tf.SparseTensor):
                raise ConfigurationError(
                    "Sparse tensors cannot be shared by several workers.",
                    where="dataset",
                    remedy="give dense ones: tf.sparse.to_dense",
                )
            count = leaf.shape[0] if leaf.shape.rank and leaf.shape[0] else tf.shape(leaf)[0]
            return leaf[replica * count // replicas : (replica + 1) * count // replicas]

        return tf.nest.map_structure(rows, batch)

    def all_shares(*batch: Any) -> tf.data.Dataset:
        pieces = [tf.data.Dataset.from_tensors(share(batch, first + i)) for i in range(local)]
        joined = pieces[0]
        for piece in pieces[1:]:
            joined = joined.concatenate(piece)
        return joined

    if local == 1:
        own = dataset.map(lambda *batch: share(batch, first))
    else:
        own = dataset.flat_map(all_shares)
    return own.prefetch(PREFETCHED)


def differing(model: keras.Model) -> list[Variable]:
    """The variables that training changes and whose value may be another on each replica.

    Weights and the optimizer's slots are the same, for all replicas apply the same gradients.
    """
    alike = {id(v) for v in (*model.trainable_variables, *model.optimizer.variables)}
    return [
        variable
        for variable in changed_by_a_step(model)
        if id(variable) not in alike or is_summed(variable)
    ]


def average_statistics(model: keras.Model, team: Team) -> None:
    """Give every replica the mean of what the replicas' layers have learned of their inputs.

    Such as BatchNormalization's moving mean and variance. Means of equal values are exact.
    """
    trained = {id(variable) for variable in model.trainable_variables}
    learned = [
        variable
        for variable in model.variables
        if id(variable) not in trained and _is_floating(variable)
    ]
    if not learned or team.size * len(components(learned)[0]) == 1:
        return
    for variable, copies in zip(learned, copies_of(learned, team), strict=True):
        if len(copies) == 1:
            continue
        mean = merged(variable, copies)
        for part in parts([variable]):
            part.assign(mean)


def copies_of(variables: Sequence[Variable], team: Team) -> list[list[np.ndarray]]:
    """Each variable's values on all replicas, in the order of their ranks; one, where all agree.

    What is added up has one for each replica in any case.
    """
    own = [[np.asarray(part.numpy()) for part in each] for each in components(variables)]
    if team.size == 1 and all(len(each) == 1 for each in own):
        return own  # nobody to compare with
    same = _agreed(variables, own, team)
    by_member = team.exchange([[] if one else each for each, one in zip(own, same, strict=True)])
    return [
        own[i][:1] if one else [copy for member in by_member for copy in member[i]]
        for i, one in enumerate(same)
    ]


def _agreed(variables: Sequence[Variable], own: list[list[np.ndarray]], team: Team) -> list[bool]:
    """For each variable whether its value is one and the same: a frozen layer's are, and large."""
    by_member = team.exchange([sorted({digest([copy]) for copy in each}) for each in own])
    return [
        not is_summed(variable) and len({d for member in by_member for d in member[i]}) == 1
        for i, variable in enumerate(variables)
    ]


def digest(values: Iterable[np.ndarray]) -> str:
    """SHA-256 of the bytes of `values`, one after another."""
    found = hashlib.sha256()
    for value in values:
        found.update(packing.content(value))
    return found.hexdigest()


def merged(variable: Variable, copies: Sequence[np.ndarray]) -> np.ndarray:
    """One value for all replicas: of numbers the mean, of what cannot be averaged the first."""
    first = copies[0]
    if not _is_floating(variable):
        return first
    mean = np.mean([copy.astype(np.float64) for copy in copies], axis=0)
    return np.asarray(mean).astype(first.dtype)


def shared_out(variable: Variable, copies: Sequence[np.ndarray], replicas: int) -> list[np.ndarray]:
    """`copies` of another number of replicas, for `replicas` of them.

    What is added up over the replicas, as a metric's total, goes to the first one.
    """
    if is_summed(variable):
        total = np.sum(np.stack(copies), axis=0, dtype=copies[0].dtype)
        return [total, *(np.zeros_like(total) for _ in range(replicas - 1))]
    return [merged(variable, copies)] * replicas


def is_summed(variable: Variable) -> bool:
    """Whether what the replicas hold is added up to its value."""
    return str(getattr(variable, "synchronization", "")).lower().endswith("on_read")


def _is_floating(variable: Variable) -> bool:
    return tf.as_dtype(variable.dtype).is_floating
