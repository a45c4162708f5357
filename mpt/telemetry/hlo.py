"""Matrix products, convolutions and casts in the text of an HLO module, as XLA gets it.

Only instructions on which the module's result depends count: Keras's recurrent layers call their
cell once before the loop, to learn its shapes, and XLA drops that call.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

_COMPUTATION = re.compile(r"^\s*(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"^(\w+)\[([\d,]*)\]")
_CALL = re.compile(r" (dot|convolution)\(([^)]*)\)(.*)$")
_CONTRACTING = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LABELS = re.compile(r"dim_labels=\w+_(\w+)->")
_DILATION = re.compile(r"lhs_dilate=([\dx]+)")
_METADATA = re.compile(r", metadata=\{.*\}")
_OPERATION = re.compile(r'op_name="([^"]*)"')
_KIND = re.compile(r'op_type="([^"]*)"')
_CONVERT = re.compile(r" convert\((.*?)\)(?:,|$)")
_PARAMETER = re.compile(r" parameter\((\d+)\)")
_NAME = re.compile(r"[\w.\-]+")

BYTES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "f8e4m3fn": 1, "f8e5m2": 1}  # of HLO's floats
WIDE = ("f32", "f64")


@dataclass(frozen=True)
class Product:
    """A matrix product or a convolution of an HLO module.

    Attributes:
        operation: name of the TensorFlow operation that it comes from; empty where not said.
        dtype: HLO's name of its first operand's: f32, f16, bf16, ...
        flops: two for each multiply and add. Of a transposed convolution those with the zeros that
            its stride puts between the inputs do not count.
    """

    operation: str
    dtype: str
    flops: float


@dataclass(frozen=True)
class _Instruction:
    computation: str
    root: bool
    name: str
    text: str


def products(hlo: str) -> list[Product]:
    """The `dot` and `convolution` instructions in an HLO module's text, in their order.

    A loop's body counts once, and so does each branch of a condition.
    """
    instructions = list(_instructions(hlo))
    live = _live(instructions)
    shapes: dict[str, tuple[str, list[int]]] = {}
    found = []
    for instruction in instructions:
        shape = _SHAPE.match(instruction.text)
        if not shape:
            continue
        dtype, dims = shape.groups()
        shapes[instruction.name] = dtype, [int(d) for d in dims.split(",") if d]
        call = _CALL.search(instruction.text)
        if call and instruction in live:
            found.append(_product(instruction, call, shapes))
    return found


def cast_bytes(hlo: str, inputs: int) -> int:
    """Bytes that casts between floating dtypes of different width write, in an HLO module's text.

    Those of weights, on which no input bears, do not count, nor do those inside of another
    operation: a fused normalization or a mean that adds up in float32 writes none. A loop's body
    counts once, with the casts of its weights.

    Args:
        inputs: how many of the module's first parameters are inputs; the others are weights.
    """
    instructions = list(_instructions(hlo))
    live = _live(instructions)
    dtypes: dict[tuple[str, str], str] = {}
    fed: set[tuple[str, str]] = set()
    written = 0
    for instruction in instructions:
        here = instruction.computation
        key = here, instruction.name
        text = _METADATA.sub("", instruction.text)
        parameter = _PARAMETER.search(text)
        if parameter:
            is_fed = not here.startswith("ENTRY ") or int(parameter.group(1)) < inputs
        else:
            is_fed = any((here, name) in fed for name in _NAME.findall(text))
        if is_fed:
            fed.add(key)
        shape = _SHAPE.match(text)
        if not shape:
            continue
        dtypes[key] = dtype = shape.group(1)
        convert = _CONVERT.search(text)
        if not (convert and is_fed and instruction in live):
            continue
        kind = _KIND.search(instruction.text)
        source = dtypes.get((here, convert.group(1).split()[-1].lstrip("%")), "")
        if BYTES.get(source) is None or BYTES.get(dtype) is None or BYTES[source] == BYTES[dtype]:
            continue
        if kind is None or kind.group(1) == "Cast":
            written += BYTES[dtype] * prod(int(d) for d in shape.group(2).split(",") if d)
    return written


def _product(
    instruction: _Instruction, call: re.Match[str], shapes: dict[str, tuple[str, list[int]]]
) -> Product:
    operation, text, attributes = call.groups()
    operands = [operand.split()[-1].lstrip("%") for operand in _split_operands(text)]
    (dtype, lhs), (_, rhs) = (shapes[operand] for operand in operands)
    if operation == "dot":
        contracting = _CONTRACTING.search(attributes)
        dimensions = contracting.group(1) if contracting else ""
        depth = prod(lhs[int(d)] for d in dimensions.split(",") if d)
    else:
        labels = _LABELS.search(attributes)
        assert labels, instruction.text
        depth = prod(size for size, label in zip(rhs, labels.group(1), strict=True) if label != "o")
    dilation = _DILATION.search(attributes)
    inserted = prod(int(d) for d in dilation.group(1).split("x")) if dilation else 1
    source = _OPERATION.search(attributes)
    output = prod(shapes[instruction.name][1])
    return Product(source.group(1) if source else "", dtype, 2.0 * output * depth / inserted)


def _instructions(hlo: str) -> Iterator[_Instruction]:
    computation = ""
    for line in hlo.splitlines():
        begun = _COMPUTATION.match(line)
        if begun:
            computation = f"ENTRY {begun.group(2)}" if begun.group(1) else begun.group(2)
            continue
        defined = _INSTRUCTION.match(line)
        if defined:
            yield _Instruction(computation, bool(defined.group(1)), *defined.group(2, 3))


def _live(instructions: list[_Instruction]) -> set[_Instruction]:
    """The instructions on which the module's result depends."""
    by_name = {(each.computation, each.name): each for each in instructions}
    roots = {each.computation: each for each in instructions if each.root}
    waiting = [root for computation, root in roots.items() if computation.startswith("ENTRY ")]
    live: set[_Instruction] = set()
    while waiting:
        instruction = waiting.pop()
        if instruction in live:
            continue
        live.add(instruction)
        for name in _NAME.findall(_METADATA.sub("", instruction.text)):
            used = by_name.get((instruction.computation, name)) or roots.get(name)
            if used is not None:
                waiting.append(used)
    return live


def _split_operands(operands: str) -> list[str]:
    """Operands of a call; commas inside shapes and layouts do not separate them."""
    return re.split(r",\s*(?![^\[{]*[\]}])", operands.strip())
