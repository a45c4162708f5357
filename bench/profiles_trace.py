"""What TensorFlow's profiler wrote, and whose each instant of it was.

Operations overlap: two run at once, and one waits for threads that another keeps busy. So time is
not the sum of spans. At each instant those count that a thread works for, in equal parts:

- a task of the pool's counts for the operation that gave it out;
- an operation's own thread counts, but where it has given out tasks and waits for them, it counts
  only if a core is left over;
- of spans inside of each other, as a call and what it calls, the innermost counts.

What is left of the wall time is that in which no operation was open.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POOL = "Eigen"
"""Part of the name of the threads among which one operation divides its work."""
DATA = "tf_data"
"""The beginning of the names of the threads that make batches."""
RECORD, START, STOP = (
    f"ThreadpoolListener::{name}" for name in ("Record", "StartRegion", "StopRegion")
)


@dataclass(frozen=True)
class Op:
    """One execution of an operation; times in ps."""

    start: int
    end: int
    name: str
    type: str


Event = tuple[int, int, str, str, int]  # start, end, name, type, number of a task
Span = tuple[int, int, int, bool]  # start, end, number of its Op (-1: no one's), whether a task


@dataclass
class Trace:
    """What ran.

    Attributes:
        ops: the operations.
        threads: for each thread its spans: operations, and tasks of theirs.
        given: for each task when it was given out, when it ended, and the number of its op.
    """

    ops: list[Op]
    threads: list[list[Span]]
    given: list[tuple[int, int, int]]

    def extent(self) -> tuple[int, int]:
        """From the beginning of the first operation to the end of the last one, ps."""
        return min(op.start for op in self.ops), max(op.end for op in self.ops)


@dataclass
class Split:
    """Whose the time was, in ps.

    Attributes:
        wall: of each op, its share of the wall time.
        core: of each op, the time that cores worked for it.
        idle: wall time in which no op was open.
        total: wall time.
    """

    wall: list[float]
    core: list[float]
    idle: float
    total: float


def read(folder: str | Path) -> Trace:
    """The trace of the host in the profile below `folder`."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    hlo = {}
    for plane in space.planes:
        if plane.name == "/host:metadata":
            hlo = _instructions(plane)
    host = next(plane for plane in space.planes if plane.name == "/host:CPU")
    return assemble([_thread(host, line, hlo) for line in host.lines])


def assemble(threads: list[tuple[str, list[Event]]]) -> Trace:
    """A trace of threads' names and events.

    Args:
        threads: events are (start, end, name, type, number): of an operation type is set; of a
            Record, a StartRegion or a StopRegion `name` is that, and the number says which task.
    """
    ops: list[Op] = []
    spans: list[list[Span]] = [[] for _ in threads]
    for own, (_, events) in zip(spans, threads, strict=True):
        for start, end, name, op_type, _ in events:
            if op_type and end > start:
                own.append((start, end, len(ops), False))
                ops.append(Op(start, end, name, op_type))
    begun = [dict(_regions(events)) if POOL in name else {} for name, events in threads]
    owners = _owners(threads, spans, begun)
    recorded = {
        number: start
        for _, events in threads
        for start, _, name, _, number in events
        if name == RECORD
    }
    given = []
    for own, regions in zip(spans, begun, strict=True):
        for number, (start, end) in regions.items():
            owner = owners.get(number, -1)
            if end > start:
                own.append((start, end, owner, True))
            if owner >= 0:
                given.append((min(recorded.get(number, start), start), end, owner))
        own.sort(key=lambda span: (span[0], -span[1]))
    return Trace(ops, spans, given)


def split(trace: Trace, cores: int, start: int, end: int) -> Split:
    """Divide the time from `start` to `end`, ps, among the operations."""
    found = Split([0.0] * len(trace.ops), [0.0] * len(trace.ops), 0.0, float(end - start))
    stacks: list[list[Span]] = [[] for _ in trace.threads]
    active: dict[int, Span] = {}
    outstanding: Counter[int] = Counter()
    last = start
    for now, begins, thread, span in _changes(trace):
        now = min(max(now, start), end)
        if now > last:
            _divide(found, now - last, active.values(), outstanding, cores)
            last = now
        if thread < 0:
            outstanding[span[2]] += 1 if begins else -1
            continue
        stack = stacks[thread]
        if begins:
            stack.append(span)
        else:
            stack.remove(span)
        active.pop(thread, None)
        if stack:
            active[thread] = stack[-1]
    found.idle += end - last
    return found


def _divide(
    found: Split, time: int, active: Iterable[Span], outstanding: Counter[int], cores: int
) -> None:
    """Give `time` to those that work now."""
    owned = [(owner, task) for _, _, owner, task in active if owner >= 0]
    working = [owner for owner, task in owned if task or not outstanding[owner]]
    waiting = [owner for owner, task in owned if not task and outstanding[owner]]
    working += waiting[: max(0, cores - len(working))]
    if not working:
        found.idle += time
        return
    for owner in working:
        found.wall[owner] += time / len(working)
        found.core[owner] += time * min(1.0, cores / len(working))


def _changes(trace: Trace) -> list[tuple[int, bool, int, Span]]:
    """Beginnings and ends of spans in order of time; of tasks given out as of thread -1."""
    changes = []
    for thread, spans in enumerate(trace.threads):
        for depth, span in enumerate(spans):  # sorted: an inner one comes after the outer one
            changes.append((span[0], True, depth, thread, span))
            changes.append((span[1], False, -depth, thread, span))
    for given, end, owner in trace.given:
        span = (given, end, owner, True)
        changes += [(given, True, 0, -1, span), (end, False, 0, -1, span)]
    changes.sort(key=lambda change: change[:3])
    return [(time, begins, thread, span) for time, begins, _, thread, span in changes]


def _regions(
    events: list[Event],
) -> Iterator[tuple[int, tuple[int, int]]]:
    """The tasks that a thread of the pool ran: number, (start, end)."""
    begun: tuple[int, int] | None = None
    for start, _, name, _, number in sorted(events, key=lambda event: event[0]):
        if name == START:
            begun = (number, start)
        elif name == STOP and begun is not None:
            yield begun[0], (begun[1], start)
            begun = None


def _owners(
    threads: list[tuple[str, list[Event]]],
    spans: list[list[Span]],
    begun: list[dict[int, tuple[int, int]]],
) -> dict[int, int]:
    """Which op gave out each task: that inside of which it was, or whose task gave it out."""
    owners: dict[int, int] = {}
    parents: dict[int, int] = {}
    for (_, events), own, regions in zip(threads, spans, begun, strict=True):
        marks = [(start, 0, end, owner) for start, end, owner, _ in own]
        marks += [(start, 1, end, number) for number, (start, end) in regions.items()]
        marks += [
            (start, 2, start, number) for start, _, name, _, number in events if name == RECORD
        ]
        stack: list[tuple[int, int, int]] = []  # (end, what, number)
        for start, what, end, number in sorted(marks):
            while stack and stack[-1][0] < start:
                stack.pop()
            if what < 2:
                stack.append((end, what, number))
            elif stack and stack[-1][1] == 0:
                owners[number] = stack[-1][2]
            elif stack:
                parents[number] = stack[-1][2]
    for task in parents:
        first, seen = task, set()
        while first in parents and first not in seen:
            seen.add(first)
            first = parents[first]
        if first in owners:
            owners[task] = owners[first]
    return owners


def _thread(
    plane: Any, line: Any, hlo: dict[tuple[str, str], tuple[str, str]]
) -> tuple[str, list[Event]]:
    """A thread's name and its events, as `assemble` takes them."""
    events = []
    stat_names = {number: each.name for number, each in plane.stat_metadata.items()}
    for event in line.events:
        metadata = plane.event_metadata[event.metadata_id]
        stats = {stat_names[stat.metadata_id]: stat for stat in event.stats}
        name, op_type, number = metadata.name, "", -1
        start = 1000 * line.timestamp_ns + event.offset_ps
        if name in (RECORD, START, STOP):
            task = stats.get("_p", stats.get("_c"))
            number = -1 if task is None else task.int64_value or task.uint64_value
        elif "hlo_op" in stats:
            if name.startswith("end: "):
                continue
            module = stats["hlo_module"].str_value or stat_names[stats["hlo_module"].ref_value]
            op_type, name = hlo.get((module, name), (_opcode(name), name))
        elif metadata.display_name and ":" in name and not name.startswith("Iterator"):
            name, op_type = name.rpartition(":")[0], metadata.display_name
            if line.name.startswith(DATA):
                name = f"Iterator/{name}"
        else:
            continue
        events.append((start, start + event.duration_ps, name, op_type, number))
    return line.name, events


def _opcode(instruction: str) -> str:
    """Of an instruction that no module tells of: its name without the number."""
    return instruction.partition(".")[0].removeprefix("wrapped_")


def _instructions(plane: Any) -> dict[tuple[str, str], tuple[str, str]]:
    """Type and name of what XLA compiled, by the names of the module and of the instruction.

    A fusion is what its root was in TensorFlow: its name and type there.
    """
    from tensorflow.compiler.xla.service import hlo_pb2

    found = {}
    for event in plane.event_metadata.values():
        for stat in event.stats:
            proto = hlo_pb2.HloProto()
            proto.ParseFromString(stat.bytes_value)
            for computation in proto.hlo_module.computations:
                for instruction in computation.instructions:
                    opcode, metadata = instruction.opcode, instruction.metadata
                    own = opcode in ("dot", "convolution", "copy", "transpose", "convert")
                    op_type = opcode if own or not metadata.op_type else metadata.op_type
                    name = metadata.op_name or instruction.name
                    found[proto.hlo_module.name, instruction.name] = op_type, name
    return found
