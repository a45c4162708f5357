"""What callbacks have counted comes back in another process as what it was."""

from collections import Counter, OrderedDict, defaultdict, deque, namedtuple

import keras
import numpy as np
import pytest

from mpt.callback_state import Callbacks
from mpt.checkpoint import read, write


@pytest.fixture
def stored(tmp_path):
    """`stored(state)` is what a checkpoint gives back of it."""

    def call(state):
        write(tmp_path / "x.ckpt", {"state": state})
        return read(tmp_path / "x.ckpt")["state"]

    return call


class Counting(keras.callbacks.Callback):
    def __init__(self, **values):
        super().__init__()
        self.__dict__.update(values)


def go_on(stored, before, now):
    """`before`'s state, given to `now` in another process."""
    Callbacks([now]).restore(stored(Callbacks([before]).state()))
    return now


@pytest.mark.parametrize(
    ("value", "start"),
    [
        (3, 0),
        (0.1, None),
        (-0.0, 1.0),
        ("best", ""),
        (True, False),
        (None, None),
        ([1, [2.5, "three"], None], []),
        ([1, 2, -3], []),
        ([0.1, -0.0, float("inf")], []),
        ([1, 2.0, True], []),
        ([True, False], []),
        ([2**70, 1], []),
        ((1, 2), None),
        ([(1, 0.5), (2, 0.25)], []),
        ({"loss": [1.0, 0.5], "nested": {"a": (1, 2)}}, {}),
        ({10: 0.5, 20: 0.25}, {}),
        ({(0, 1): "pair", None: 1, True: 2}, {}),
        ({"$array": 1, "$tuple": [2]}, {}),
        ({3, 1, 2}, set()),
        (frozenset({"a", ("b", 1)}), frozenset()),
        (deque([1, 2, 3], maxlen=3), deque(maxlen=3)),
        (Counter("aab"), Counter()),
        (OrderedDict([("b", 1), ("a", 2)]), OrderedDict()),
    ],
)
def test_plain_values_come_back_as_what_they_were(stored, value, start):
    found = go_on(stored, Counting(value=value), Counting(value=start)).value
    assert found == value
    assert type(found) is type(value if start is None else start)
    assert repr(found) == repr(value)


def test_a_dictionary_with_defaults_keeps_its_defaults(stored):
    before, now = defaultdict(list), defaultdict(list)
    before["a"].append(1)
    found = go_on(stored, Counting(seen=before), Counting(seen=now)).seen
    found["b"].append(2)
    assert found == {"a": [1], "b": [2]}


Best = namedtuple("Best", "step loss")


@pytest.mark.parametrize(
    "made",
    [
        lambda: Best(3, 0.5),
        lambda: [Best(3, 0.5)],
        lambda: {"a": Counter("aab")},
        lambda: [defaultdict(list, a=[1])],
        lambda: {"last": deque([1, 2], maxlen=2)},
    ],
)
def test_what_would_come_back_as_something_else_stays_as_it_is_made(stored, made):
    now = go_on(stored, Counting(value=made()), Counting(value=made(), other=1))
    assert now.value == made()
    assert repr(now.value) == repr(made())
    assert "value" not in Callbacks([now]).state()["callbacks"][0]["values"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool", "bfloat16"])
def test_arrays_and_numbers_of_numpys_keep_their_dtype(stored, dtype):
    array = np.array([[1, 0], [2, 3]]).astype(dtype)
    before = Counting(array=array, number=array[0, 0], listed=[array, array[0, 0]])
    now = go_on(stored, before, Counting(array=None, number=None, listed=None))
    for found, wanted in ((now.array, array), (now.listed[0], array)):
        assert (found.dtype, found.tobytes()) == (wanted.dtype, wanted.tobytes())
        found[0, 0] = 0  # a callback may write to it
    assert (type(now.number), type(now.listed[1])) == (type(array[0, 0]),) * 2


def test_functions_and_other_objects_are_those_of_the_new_process(stored):
    make, lock = (lambda: 1), object()
    before = Counting(make=print, lock=object(), count=5)
    now = go_on(stored, before, Counting(make=make, lock=lock, count=0))
    assert (now.make, now.lock, now.count) == (make, lock, 5)


def test_an_attribute_that_the_new_one_does_not_have_is_left_out(stored):
    now = go_on(stored, Counting(old=1, count=2), Counting(count=0))
    assert vars(now).get("old") is None
    assert now.count == 2


def test_a_value_that_was_reset_to_nothing(stored):
    lock = object()
    now = go_on(stored, Counting(until=None, lock=None), Counting(until=3, lock=lock))
    assert (now.until, now.lock) == (None, lock)


def test_an_array_of_a_kind_that_no_checkpoint_holds_is_left_out(stored):
    wide = np.ones(2, "longdouble")
    now = go_on(stored, Counting(wide=wide, count=1), Counting(wide=None, count=0))
    assert (now.wide, now.count) == (None, 1)


LOSSES = [1.0, 0.8, 0.75, 0.7, 0.2, 0.19, 0.5, 0.18, 0.1, 0.4, 0.1]


def kerass_own():
    """Callbacks that count in different ways, on a model that nobody trains."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    callbacks = [
        keras.callbacks.EarlyStopping(patience=4, min_delta=0.1, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(patience=1, cooldown=1, min_delta=0.1, factor=0.5),
        keras.callbacks.ModelCheckpoint("x.keras", save_best_only=True, save_freq=100),
        keras.callbacks.History(),
    ]
    for callback in callbacks:
        callback.set_model(model)
        callback.on_train_begin()
    return model, callbacks


def told(model, callbacks, losses, first_epoch=0):
    """What they have set and counted at the end of each epoch."""
    seen = []
    for epoch, loss in enumerate(losses, start=first_epoch):
        model.set_weights([np.full((2, 1), epoch), np.zeros(1)])
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, {"val_loss": loss})
        stopping, plateau, _, history = callbacks
        seen.append(
            [
                *(stopping.wait, stopping.best, stopping.best_epoch, model.stop_training),
                *(plateau.wait, plateau.best, plateau.cooldown_counter),
                float(model.optimizer.learning_rate.numpy()),
                stopping.best_weights[0].tolist(),
                [list(values) for values in history.history.values()],
            ]
        )
    return seen


@pytest.mark.parametrize("epoch", range(len(LOSSES)))
def test_kerass_own_go_on_as_if_nothing_had_happened(stored, epoch):
    model, callbacks = kerass_own()
    expected = told(model, callbacks, LOSSES)
    assert len({row[7] for row in expected}) > 2, "the learning rate never changed"
    model, callbacks = kerass_own()
    seen = told(model, callbacks, LOSSES[:epoch])
    state, rate = stored(Callbacks(callbacks).state()), model.optimizer.learning_rate.numpy()
    model, callbacks = kerass_own()
    Callbacks(callbacks).restore(state)
    model.optimizer.learning_rate = rate  # a variable of the optimizer's, kept with it
    model.stop_training = any(row[3] for row in seen)
    assert seen + told(model, callbacks, LOSSES[epoch:], epoch) == expected


def test_a_long_history_takes_eight_bytes_a_number(stored, tmp_path):
    before, now = keras.callbacks.History(), keras.callbacks.History()
    for history in (before, now):
        history.set_model(keras.Sequential())
        history.on_train_begin()
    for epoch in range(5000):
        before.on_epoch_end(epoch, {"loss": epoch / 7, "val_loss": float("nan")})
    go_on(stored, before, now)
    assert repr((now.epoch, now.history)) == repr((before.epoch, before.history))
    assert (tmp_path / "x.ckpt").stat().st_size < 8 * 3 * 5000 + 1000


def test_other_callbacks_than_before(stored):
    state = stored(Callbacks([keras.callbacks.History()]).state())
    with pytest.raises(ValueError, match="EarlyStopping"):
        Callbacks([keras.callbacks.EarlyStopping()]).restore(state)
    with pytest.raises(ValueError, match="callbacks"):
        Callbacks([]).restore(state)
