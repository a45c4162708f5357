"""To which kind of work an operation belongs, by its type and its name: TensorFlow's, PyTorch's.

A name says more than a type where layers are made of small operations: a multiplication below
`block1_feed_norm` is part of a normalization. The first rule that fits decides.
"""

import re

PRODUCTS = "matrix products"
CONVOLUTIONS = "convolutions"
FORWARD, BACKWARD = "convolutions, forward", "convolutions, backward"
NORMALIZATION = "normalization"
SOFTMAX = "softmax and cross-entropy"
ACTIVATIONS = "activations"
ELEMENTWISE = "elementwise"
REDUCTIONS = "reductions"
CASTS = "casts"
LAYOUT = "transposes, reshapes, copies"
OPTIMIZER = "optimizer"
TELEMETRY = "telemetry and metrics"
EMBEDDING = "embedding"
POOLING = "pooling"
INPUT = "data input"
OTHER = "other"
KINDS = (
    *(PRODUCTS, FORWARD, BACKWARD, NORMALIZATION, SOFTMAX, ACTIVATIONS, ELEMENTWISE, REDUCTIONS),
    *(CASTS, LAYOUT, POOLING, EMBEDDING, OPTIMIZER, TELEMETRY, INPUT, OTHER),
)
"""All kinds, in the order in which they are shown."""

_PLACES = re.compile(r"^.*?(?:body|cond|then|else)/_\d+/")
_ANY = ""
_GRADIENT = "gradient_tape/"
# (kind, pattern of the type, pattern of the name)
_RULES = tuple(
    (kind, re.compile(of_type), re.compile(of_name))
    for kind, of_type, of_name in (
        (INPUT, _ANY, r"^Iterator"),
        (INPUT, r"^Iterator", _ANY),
        (OPTIMIZER, r"^ResourceApply", _ANY),
        (OPTIMIZER, r"^(?!Read|Assign|L2Loss|IsFinite)", r"(^|/)(adam|adamw|sgd|lamb|lion)\w*/"),
        (BACKWARD, r"Conv\w*(Backprop|_bwd)", _ANY),
        (BACKWARD, _ANY, r"(^|/)convolution_backward(_\d+)?/"),
        (FORWARD, _ANY, r"(^|/)convolution_forward(_\d+)?/"),
        (FORWARD, r"(Conv[123]D|^convolution)", _ANY),
        (PRODUCTS, r"(MatMul|Einsum|^dot$)", _ANY),
        (TELEMETRY, r"^(L2Loss|IsFinite|IsNan|Timestamp|ResourceScatterNdUpdate|ArgMax)$", _ANY),
        (SOFTMAX, r"(?i)softmax|crossentropy", _ANY),
        (SOFTMAX, _ANY, r"(?i)compile_loss|cross_?entropy|softmax"),
        (NORMALIZATION, r"(BatchNorm|LayerNorm|Rsqrt)", _ANY),
        (NORMALIZATION, _ANY, r"(?i)(^|[_/])\w*norm(alization)?(_\d+)*/|moments/"),
        # mpt's kernels, which XLA names after their last operation: a cast, most often.
        (SOFTMAX, _ANY, r"^attention/"),
        (ACTIVATIONS, _ANY, r"^gelu/"),
        (REDUCTIONS, r"^fusion$", r"^wrapped_reduce"),
        (CASTS, r"^(Cast|convert)$", _ANY),
        (ACTIVATIONS, r"(Relu|Tanh|Erf|Sigmoid|Elu|Gelu|Selu|Softplus)", _ANY),
        (ACTIVATIONS, _ANY, r"(?i)(^|/)(gelu|relu|silu|swish|tanh|sigmoid)\w*/"),
        (POOLING, r"Pool", _ANY),
        (EMBEDDING, r"(Gather|UnsortedSegment|ResourceScatter|^gather$|^scatter$)", _ANY),
        (
            LAYOUT,
            r"(?i)(transpose|reshape|concat|split|slice|^pack$|tile|pad$|copy|broadcast|snapshot)",
            _ANY,
        ),
        (
            REDUCTIONS,
            r"(?i)(^Sum$|^Mean$|^Max$|^Min$|^Prod$|BiasAddGrad|ArgM|^reduce)",
            _ANY,
        ),
        (TELEMETRY, r"^(?!AddN)", r"^[^/]*$"),  # outside of any layer: the loop's and the metrics'
        (
            ELEMENTWISE,
            r"(?i)(^_?(Add|Sub|Mul|Div|RealDiv|Neg|Square|Sqrt|Pow|Exp|Log|Select|Max|Min|And|Less"
            r"|Unary|Fused)|BiasAdd$|Equal|Greater|Logical|Difference|fusion)",
            _ANY,
        ),
    )
)


def place(name: str) -> str:
    """A node's name in the function that it was traced in: the loops' and branches' are cut off."""
    while cut := _PLACES.match(name):
        name = name[cut.end() :]
    return name


def kind(op_type: str, name: str) -> str:
    """The kind of an operation of TensorFlow's or of XLA's.

    Args:
        op_type: as MatMul, or _MklMatMul.
        name: as while/body/_1/while/gpt_1/block1_feed_norm_1/mul.
    """
    op_type = re.sub(r"^_Mkl(Native)?|^_(?=Fused|Unary)", "", op_type)
    name = re.sub(r"^while/", "", place(name))
    for found, of_type, of_name in _RULES:
        if of_type.search(op_type) and of_name.search(name):
            return found
    return OTHER


_ATEN = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (OPTIMIZER, r"(?i)adam|^Optimizer|zero_grad"),
        (BACKWARD, r"convolution\w*backward"),
        (FORWARD, r"conv"),
        (PRODUCTS, r"(addmm|::mm$|bmm|matmul|linear|scaled_dot_product|flash_attention)"),
        (NORMALIZATION, r"norm"),
        (SOFTMAX, r"(softmax|cross_entropy|nll_loss)"),
        (ACTIVATIONS, r"(relu|gelu|tanh|silu|sigmoid|threshold)"),
        (POOLING, r"pool"),
        (EMBEDDING, r"(embedding|index)"),
        (CASTS, r"(_to_copy|::to$)"),
        (LAYOUT, r"(copy|contiguous|clone|cat$|stack|transpose|permute|view|reshape|pad|slice)"),
        (LAYOUT, r"(unbind|select|expand|::t$|as_strided|detach|empty|split|flatten|unfold)"),
        (REDUCTIONS, r"(sum|mean)"),
        (ELEMENTWISE, r"(add|mul|sub|div|zero|fill|ones|neg|where|pow)"),
    )
)


def aten_kind(name: str, casts: bool = False) -> str:
    """The kind of an operation of PyTorch's, as aten::addmm, or of a kernel that it compiled.

    Args:
        casts: under autocast, where what is copied is cast.
    """
    if casts and name == "aten::copy_":
        return CASTS
    for found, pattern in _ATEN:
        if pattern.search(name):
            return found
    return ELEMENTWISE if "fused" in name else OTHER
