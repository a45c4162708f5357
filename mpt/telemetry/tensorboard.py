"""TensorBoard event files, written without TensorFlow.

A scalar is stored as a float32, as TensorBoard's format has it: `EventAccumulator.Scalars(tag)`
reads it. The file is flushed by `flush`, which the run calls at every logged step.
"""

import io
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT, DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from mpt.append_file import AppendFile

PREFIX = "events.out.tfevents."

# Category -> chart -> patterns of the tags drawn in it.
DASHBOARD: dict[str, dict[str, tuple[str, ...]]] = {
    "Mixed precision": {
        "loss scale": (r"^loss_scale/scale$",),
        "skipped steps": (r"^loss_scale/skipped_steps$",),
        "examples a second": (r"^throughput/examples_per_second$",),
        "memory (bytes)": (r"^memory/device_(peak|in_use)_bytes$", r"^memory/host_rss_bytes$"),
    },
    "Training": {
        "loss": (r"^(train|validation)/loss$",),
        "accuracy": (r"^(train|validation)/.*accuracy$",),
        "learning rate": (r"^optimizer/learning_rate$",),
    },
    "Gradients": {
        "global norm": (r"^gradients/global_norm$",),
        "largest scaled gradient": (r"^gradients/max_abs$",),
        "headroom (bits)": (r"^gradients/headroom_bits$",),
        "lost to underflow": (r"^gradients/zero_fraction$", r"^gradients/subnormal_fraction$"),
        "skip rate": (r"^loss_scale/skip_rate$",),
        "skips in a row": (r"^loss_scale/consecutive_skips$",),
    },
    "Compute": {
        "step time (ms)": (r"^throughput/step_time_ms$",),
        "waiting for data": (r"^throughput/data_wait_fraction$",),
        "model FLOP/s": (r"^compute/model_flops_per_second$",),
        "utilization": (r"^compute/utilization$",),
    },
}


class Board:
    """One event file in `log_dir`, which is made if need be. Use `close`, or `with`.

    Args:
        growing: gives the file of a path, which may tell of what cannot be written; else that is
            an error.
        begin: begin the file now, and not by `begin_file`.

    Attributes:
        path: the event file.
    """

    def __init__(
        self,
        log_dir: str | Path,
        growing: Callable[[Path], AppendFile] = AppendFile,
        *,
        begin: bool = True,
    ):
        self._folder = Path(log_dir)
        self._growing = growing
        self._described: set[str] = set()
        self._file: AppendFile | None = None
        self._waiting = io.BytesIO()
        self._writer = RecordWriter(self._waiting)
        if begin:
            self.begin_file()

    def begin_file(self, step: int | None = None) -> None:
        """Begin another file, which readers take up once they have read the former ones.

        Args:
            step: what former files hold from there on is void: a TensorBoard that has read it
                drops it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        # Readers take the files in the order of their names; a clock may have been put back.
        stamps = [
            path.name[len(PREFIX) :].split(".")[0] for path in self._folder.glob(f"{PREFIX}*")
        ]
        last = max((int(stamp) for stamp in stamps if stamp.isdecimal()), default=0)
        name = f"{PREFIX}{max(time.time_ns(), last + 1)}.{socket.gethostname()}.{os.getpid()}"
        self.path = self._folder / name
        self._file = self._growing(self.path)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=step, session_log=start))
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Write one value a tag. NaN and infinities are written as they are; None is left out."""
        summary = Summary()
        for tag, value in values.items():
            if value is not None:
                summary.value.add(tag=tag, simple_value=float(value))
        if summary.value:
            self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Write a text, shown as Markdown on the Text page."""
        metadata = text_metadata.create_summary_metadata(tag, "")
        self._string(tag, as_text(markdown).encode(), metadata, step)

    def metadata(self, tag: str, metadata: SummaryMetadata) -> None:
        """Write a value that is all in its metadata, as the HParams page has its own."""
        empty = TensorProto(dtype=DT_FLOAT)
        empty.tensor_shape.dim.add(size=0)
        self._tensor(tag, empty, metadata, step=0)

    def histogram(self, tag: str, step: int, buckets: np.ndarray, description: str = "") -> None:
        """Write a histogram, shown on the Histograms page.

        Args:
            buckets: float64 of shape (k, 3): left edge, right edge and count, from left to right.
            description: Markdown, shown beside the tag; written with the tag's first histogram,
                from which TensorBoard takes it.
        """
        tensor = TensorProto(dtype=DT_DOUBLE, tensor_content=buckets.astype("<f8").tobytes())
        for size in buckets.shape:
            tensor.tensor_shape.dim.add(size=size)
        text = "" if tag in self._described else description
        self._described.add(tag)
        metadata = histogram_metadata.create_summary_metadata("", text)
        self._tensor(tag, tensor, metadata, step)

    def layout(self) -> None:
        """Write `DASHBOARD`, the layout of the Custom Scalars page."""
        layout = layout_pb2.Layout()
        for title, charts in DASHBOARD.items():
            category = layout.category.add(title=title)
            for chart, patterns in charts.items():
                content = layout_pb2.MultilineChartContent(tag=patterns)
                category.chart.add(title=chart, multiline=content)
        self._string(
            layout_metadata.CONFIG_SUMMARY_TAG,
            layout.SerializeToString(),
            layout_metadata.create_summary_metadata(),
            step=0,
        )

    def flush(self) -> None:
        """Hand what was written to the system, so that readers see it: whole records, or none."""
        if (content := self._waiting.getvalue()) and self._file is not None:
            self._file.append(content)
            self._waiting.seek(0)
            self._waiting.truncate()

    def close(self) -> None:
        """Close the file; to close it again does no harm."""
        if self._file is not None:
            self.flush()
            self._file.close()

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _string(self, tag: str, content: bytes, metadata: SummaryMetadata, step: int) -> None:
        tensor = TensorProto(dtype=DT_STRING, string_val=[content])
        tensor.tensor_shape.SetInParent()  # a scalar: a shape, without dimensions
        self._tensor(tag, tensor, metadata, step)

    def _tensor(self, tag: str, tensor: TensorProto, metadata: SummaryMetadata, step: int) -> None:
        value = Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())


def as_text(text: str) -> str:
    """`text` as a protocol buffer takes it: a name of a file may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def read_tags(log_dir: str | Path) -> set[str]:
    """The tags of the scalars in a folder's event files, by TensorBoard's own reader.

    No folder, no tags. It imports TensorFlow where that is installed.
    """
    if not Path(log_dir).is_dir():
        return set()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(log_dir), size_guidance={"scalars": 1})
    return set(reader.Reload().Tags()["scalars"])
