"""Images and labels that TensorFlow Datasets has prepared, read from its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpt.data import checks, shards
from mpt.data.examples import STALL_SECONDS, Data
from mpt.data.left_out import LeftOut, OnError
from mpt.data.pictures import Augmentation, sides_of
from mpt.data.shards import Part, Reading, Shards
from mpt.data.tfds_prepared import Reference, package, prepared, said
from mpt.errors import ConfigurationError

HELD_OUT = ("validation", "test")
OWN_FUNCTION = "load it in a function of your own: dataset=python"


def build(
    *,
    batch_size: int,
    seed: int,
    name: str,
    config: str | None = None,
    version: str | None = None,
    split: str = "train",
    validation_split: str | None = None,
    data_dir: str | None = None,
    download: bool = False,
    image_key: str | None = None,
    label_key: str | None = None,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    crop_area: float | None = 0.08,
    flip: bool = True,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    randaugment: int = 0,
    magnitude: int = 9,
    center: float = 0.875,
    buffer: int = 10_000,
    shuffle: bool = True,
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """x float32 (height, width, channels) in [0, 1], y int32; with mixtures y float32 (classes,).

    Args:
        name: as TensorFlow Datasets has it; of several configs or versions null takes the only one,
            or the newest that is there.
        split: a split string of its, as `train` or `train[:90%]`.
        validation_split: the like; null takes the split `validation`, else `test`, else none.
        data_dir: of prepared datasets; null takes TFDS_DATA_DIR, else ~/tensorflow_datasets.
        download: let TensorFlow Datasets download and prepare what is not there.
        image_key, label_key: the features that are x and y; null takes those of `as_supervised`.
        size: null takes the images as they are, without crops and mirroring.
        channels: null takes those of the images.
        buffer: records from which the next one is drawn, in the order of `mpt.data.shards`.
        on_error: skip takes a truncated file up to the break. A broken image ends the run.

    Raises:
        ConfigurationError: the package or the data are not there, or are not images of classes.
    """
    checks.batch(batch_size)
    wanted = Reference(name, config, version)
    info = prepared(wanted, data_dir, download).info
    keys = _keys(info, image_key, label_key)
    asked = Augmentation((1, 1), 3, crop_area, flip, mixup, center, cutmix, randaugment, magnitude)
    augmentation = _augmentation(info.features[keys[0]], size, channels, asked)
    train, held_out, left_out = _shards(info, keys, split, validation_split, on_error)
    checks.enough(train.rows, batch_size, f"{wanted}, {split}", left_out.warning)
    reading = Reading(batch_size, seed, shuffle, buffer)
    data = shards.as_data(
        train, held_out, augmentation, reading, left_out, name=name, stall_seconds=stall_seconds
    )
    return replace(data, warnings=(*data.warnings, *_shared(train, held_out)))


def _shards(
    info: Any, keys: tuple[str, str], split: str, validation_split: str | None, on_error: OnError
) -> tuple[Shards, Shards, LeftOut]:
    """Those to train on, those to validate on, and what is left out of both."""
    classes = info.features[keys[1]].num_classes
    parse, left_out = _parser(info.features, *keys, classes), LeftOut()
    train, held_out = (
        Shards(each or "none", _parts(info, each, key, on_error, left_out), parse, classes)
        for each, key in (
            (split, "split"),
            (_held_out(info, validation_split), "validation_split"),
        )
    )
    return train, held_out, left_out


def _keys(info: Any, image_key: str | None, label_key: str | None) -> tuple[str, str]:
    """The features that are x and y: one of images, and one of classes."""
    tfds = package()
    features = info.features
    # A sequence of examples has the keys of one, too.
    names = sorted(features) if isinstance(features, tfds.features.FeaturesDict) else []
    supervised = info.supervised_keys
    if image_key is None or label_key is None:
        plain = isinstance(supervised, tuple | list) and len(supervised) == 2
        if not plain or not all(isinstance(key, str) for key in supervised):
            raise ConfigurationError(
                f"{info.name} does not say which of its features are x and y",
                where="dataset.image_key",
                allowed=names,
                remedy="give dataset.image_key and dataset.label_key",
            )
        image_key, label_key = image_key or supervised[0], label_key or supervised[1]
    for key, name, kind, what in (
        ("image_key", image_key, tfds.features.Image, "an image"),
        ("label_key", label_key, tfds.features.ClassLabel, "a class label"),
    ):
        where = f"dataset.{key}"
        if name not in names:
            raise ConfigurationError(
                f"{info.name} has no feature {name!r}", where=where, allowed=names, value=name
            )
        feature = features[name]
        if not isinstance(feature, kind):
            raise ConfigurationError(
                f"the feature {name!r} of {info.name} is {type(feature).__name__}, not {what}",
                where=where,
                allowed=[each for each in names if isinstance(features[each], kind)],
                remedy=OWN_FUNCTION,
            )
    if features[image_key].np_dtype != "uint8":
        raise ConfigurationError(
            f"the images of {info.name} are {features[image_key].np_dtype}, not bytes",
            where="dataset.image_key",
            allowed=["uint8"],
            remedy=OWN_FUNCTION,
        )
    if features[label_key].num_classes is None:
        raise ConfigurationError(
            f"the feature {label_key!r} of {info.name} does not tell its number of classes",
            where="dataset.label_key",
        )
    return image_key, label_key


def _augmentation(
    image: Any, size: int | Sequence[int] | None, channels: int | None, asked: Augmentation
) -> Augmentation:
    """`asked` for images of that size and those channels; None takes them as they are.

    Args:
        image: the feature.
    """
    height, width, depth = image.shape
    if channels is None:
        channels = 1 if depth == 1 else 3
    if size is not None:
        return replace(asked, size=sides_of(size), channels=channels)
    if height is None or width is None:
        raise ConfigurationError(
            "the images are of different sizes",
            where="dataset.size",
            remedy="set dataset.size to what the model gets, as dataset.size=224",
        )
    return replace(
        asked, size=(height, width), channels=channels, area=None, flip=False, center=1.0
    )


def _parser(
    features: Any, image_key: str, label_key: str, classes: int
) -> Callable[[Any], tuple[Any, Any]]:
    """A function from a record to the encoded image and the label."""
    tfds = package()
    read = tfds.features.FeaturesDict({key: features[key] for key in (image_key, label_key)})
    decoders = {image_key: tfds.decode.SkipDecoding()}

    def parse(record: Any) -> tuple[Any, Any]:
        example = read.deserialize_example(record, decoders=decoders)
        return example[image_key], shards.checked_label(example[label_key], 0, classes)

    return parse


def _held_out(info: Any, asked: str | None) -> str | None:
    """The split to validate on."""
    return asked or next((name for name in HELD_OUT if name in info.splits), None)


def _parts(
    info: Any, split: str | None, key: str, on_error: OnError, left_out: LeftOut
) -> tuple[Part, ...]:
    """The records of a split, in their files.

    Raises:
        ConfigurationError: there is no such split; a file is not TFRecords, is not there or ends
            within a record, and that is not to be skipped.
    """
    if split is None:
        return ()
    if info.file_format is not None and info.file_format.value != "tfrecord":
        raise ConfigurationError(
            f"{info.name} is prepared as {info.file_format.value}",
            where="dataset.data_dir",
            allowed=["tfrecord"],
            remedy="prepare it as TFRecords, TensorFlow Datasets' default",
        )
    found: list[Part] = []
    whole: dict[Path, int] = {}
    for instruction in _instructions(info, split, key):
        file = Path(str(instruction.filename))
        if file not in whole:
            whole[file] = shards.whole_records(file)[0] if file.is_file() else 0
        first, count = instruction.skip, instruction.take
        there = min(count, max(0, whole[file] - first))
        if there < count:
            what = f"{file.name} ends after {whole[file]} whole records"
            if not file.is_file():
                what = f"{file.name} is not there"
            if on_error == "fail":
                raise ConfigurationError(
                    f"{what}, and {first + count} are to be read",
                    where=str(file),
                    remedy="prepare the dataset again, or set dataset.on_error=skip to take the "
                    "records before the break",
                )
            left_out.add(what, count - there)
        left_out.of += count
        if there:
            found.append(Part(file, there, first))
    return tuple(found)


def _instructions(info: Any, split: str, key: str) -> Sequence[Any]:
    """TensorFlow Datasets' own: which records of which files make up `split`."""
    for part in split.split("+"):
        name = part.partition("[")[0].strip()
        if name not in info.splits and name != "all":
            raise ConfigurationError(
                f"{info.name} has no split {name!r}",
                where=f"dataset.{key}",
                allowed=list(info.splits),
                value=name,
            )
    try:
        return info.splits[split].file_instructions
    except Exception as error:  # of many kinds
        raise ConfigurationError(
            f"{split!r} is no split of {info.name}: {said(error)}",
            where=f"dataset.{key}",
            allowed=[*info.splits, "train[:90%]", "train[1000:2000]", "train+test"],
        ) from error


def _shared(train: Shards, held_out: Shards) -> tuple[str, ...]:
    """A warning where examples are in both."""
    shared = sum(
        max(0, min(one.first + one.count, two.first + two.count) - max(one.first, two.first))
        for one in train.parts
        for two in held_out.parts
        if one.file == two.file
    )
    if not shared:
        return ()
    return (
        f"{shared} of the {held_out.rows} validation examples are training examples too: see "
        "dataset.split and dataset.validation_split",
    )
