"""Whose the time of a profile is: hand-made traces, names as TensorFlow gives them, a real step."""

import json

import pytest
from made_up_profile import profile

from bench import profiles, profiles_tables
from bench import profiles_kinds as kinds
from bench.profiles_trace import RECORD, START, STOP, assemble, split
from mpt.kernels import convolution

COMPUTE, POOL = "tf_Compute/1", "tf_numa_-1_Eigen/1"


def op(start, end, name="a"):
    return (start, end, name, "Mul", -1)


def mark(time, what, number):
    return (time, time, what, "", number)


def shares(threads, end, cores=2):
    """Wall and core time by the op's name, and what is left."""
    trace = assemble(threads)
    found = split(trace, cores, 0, end)
    names = [each.name for each in trace.ops]
    wall, core = (dict(zip(names, part, strict=True)) for part in (found.wall, found.core))
    return wall, core, found.idle


def test_two_operations_at_once_share_the_time():
    wall, core, idle = shares(
        [(COMPUTE, [op(0, 60, "a")]), ("tf_Compute/2", [op(20, 60, "b")])], end=100
    )
    assert wall == {"a": 40, "b": 20}
    assert core == {"a": 60, "b": 40}
    assert idle == 40


def test_of_a_call_and_what_it_calls_the_inner_one_counts():
    wall, _, idle = shares(
        [(COMPUTE, [op(0, 100, "call"), op(10, 60, "inner"), op(20, 30, "innermost")])], end=100
    )
    assert wall == {"call": 50, "inner": 40, "innermost": 10}
    assert idle == 0


def test_an_operation_that_waits_for_threads_has_no_time():
    """A small reduction beside a large product whose two tasks keep both cores busy."""
    product = [op(0, 100, "product"), mark(1, RECORD, 1), mark(2, RECORD, 2)]
    reduction = [op(10, 100, "reduction"), mark(11, RECORD, 3)]
    first = [mark(10, START, 1), mark(80, STOP, 1), mark(80, START, 3), mark(90, STOP, 3)]
    second = [mark(10, START, 2), mark(100, STOP, 2)]
    wall, core, idle = shares(
        [
            (COMPUTE, product),
            ("tf_Compute/2", reduction),
            (POOL, first),
            ("tf_numa_-1_Eigen/2", second),
        ],
        end=100,
    )
    # Its own thread from 10 to 11, beside two tasks; its task from 80 to 90; then its thread again.
    assert wall["reduction"] == pytest.approx(1 / 3 + 5 + 5)
    assert core["reduction"] == pytest.approx(2 / 3 + 10 + 10)
    assert wall["product"] == pytest.approx(100 - wall["reduction"])
    assert idle == 0


def test_what_a_task_gives_out_is_its_operations_too():
    trace = assemble(
        [
            (COMPUTE, [op(0, 10, "short"), mark(5, RECORD, 1)]),
            (POOL, [mark(10, START, 1), mark(15, RECORD, 2), mark(20, STOP, 1)]),
            ("tf_numa_-1_Eigen/2", [mark(20, START, 2), mark(50, STOP, 2)]),
        ]
    )
    found = split(trace, 2, 0, 60)
    assert found.wall == [50]  # its tasks go on when its own span has ended
    assert found.idle == 10


def test_time_of_nobody_is_not_an_operations():
    """The pool also runs what no operation gave out."""
    _, _, idle = shares(
        [(COMPUTE, [op(50, 60)]), (POOL, [mark(0, START, 9), mark(40, STOP, 9)])], end=100
    )
    assert idle == 90


@pytest.mark.parametrize(
    ("op_type", "name", "expected"),
    [
        ("_MklMatMul", "while/body/_1/while/gpt_1/block1_feed_in_1/Tensordot/MatMul", "PRODUCTS"),
        ("_MklNativeFusedMatMul", "while/body/_1/while/mlp_1/dense_1_1/Relu", "PRODUCTS"),
        ("_MklEinsum", "while/body/_1/gradient_tape/while/gpt_1/einsum_1/Einsum", "PRODUCTS"),
        ("dot", "mlp_1/dense_1_1/MatMul", "PRODUCTS"),
        ("_MklNativeConv2D", "while/body/_1/while/resnet_1/stem_conv_1/convolution", "FORWARD"),
        (
            "_MklNativeConv2DBackpropFilter",
            "while/body/_1/gradient_tape/while/resnet_1/stem_conv_1/Conv2DBackpropFilter",
            "BACKWARD",
        ),
        ("_MklMatMul", f"while/body/_1/while/r/c/{convolution.FORWARD}/MatMul", "FORWARD"),
        ("GatherV2", f"while/body/_1/while/{convolution.BACKWARD}_2/GatherV2", "BACKWARD"),
        ("Cast", "layer_normalization/Cast_1", "NORMALIZATION"),
        ("Cast", "gelu/Cast", "ACTIVATIONS"),
        ("Cast", "attention/Cast", "SOFTMAX"),
        ("Mul", "cross_entropy/mul", "SOFTMAX"),
        ("fusion", "wrapped_reduce-window.2", "REDUCTIONS"),
        (
            "SquaredDifference",
            "while/body/_1/while/gpt_1/block1_attention_norm_1/moments/SquaredDifference",
            "NORMALIZATION",
        ),
        ("Mul", "while/body/_1/gradient_tape/while/gpt_1/norm_1/mul/Mul", "NORMALIZATION"),
        ("_MklNativeFusedBatchNormV3", "while/body/_1/while/r/n/FusedBatchNormV3", "NORMALIZATION"),
        ("Mul", "while/body/_1/gradient_tape/while/gpt_1/Gelu_1/mul/Mul", "ACTIVATIONS"),
        ("Erfc", "while/body/_1/while/vit_1/Gelu_1/Erfc", "ACTIVATIONS"),
        ("_MklSoftmax", "while/body/_1/while/gpt_1/Softmax", "SOFTMAX"),
        ("Mul", "while/body/_1/gradient_tape/while/compile_loss/sparse/mul", "SOFTMAX"),
        ("Cast", "while/body/_1/while/mlp_1/dense_1_1/Cast/Cast", "CASTS"),
        ("SelectV2", "while/body/_1/while/gpt_1/SelectV2", "ELEMENTWISE"),
        ("AddN", "while/body/_1/while/AddN_3", "ELEMENTWISE"),
        ("BiasAddGrad", "while/body/_1/gradient_tape/while/mlp_1/d/BiasAddGrad", "REDUCTIONS"),
        ("Split", "while/body/_1/while/gpt_1/split", "LAYOUT"),
        (
            "ResourceApplyAdam",
            "while/body/_1/while/cond_1/then/_9/while/cond_1/adam/ResourceApplyAdam_4",
            "OPTIMIZER",
        ),
        ("L2Loss", "while/body/_1/while/L2Loss_3", "TELEMETRY"),
        ("ResourceScatterNdUpdate", "while/body/_1/while/ResourceScatterNdUpdate", "TELEMETRY"),
        ("GatherV2", "while/body/_1/while/gpt_1/token_embedding_1/GatherV2", "EMBEDDING"),
        ("GatherV2", "Iterator/GatherV2", "INPUT"),
    ],
)
def test_a_kind_is_that_of_type_and_name(op_type, name, expected):
    assert kinds.kind(op_type, name) == getattr(kinds, expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aten::addmm", "PRODUCTS"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "PRODUCTS"),
        ("aten::mkldnn_convolution", "FORWARD"),
        ("aten::convolution_backward", "BACKWARD"),
        ("aten::native_layer_norm_backward", "NORMALIZATION"),
        ("aten::_log_softmax", "SOFTMAX"),
        ("aten::gelu_backward", "ACTIVATIONS"),
        ("aten::_fused_adam_", "OPTIMIZER"),
        ("aten::copy_", "LAYOUT"),
        ("aten::sum", "REDUCTIONS"),
        ("aten::add_", "ELEMENTWISE"),
    ],
)
def test_a_kind_of_pytorch(name, expected):
    assert kinds.aten_kind(name) == getattr(kinds, expected)


def test_under_autocast_a_copy_of_pytorch_is_a_cast():
    assert kinds.aten_kind("aten::copy_", casts=True) == kinds.CASTS


def test_what_pytorch_does_not_account_for_is_the_rest():
    ops = [{"name": "aten::mm", "shape": "2x2, 2x2", "ms": 6.0, "count": 3.0}]
    found = {"step_ms": 9.0, "processor_ms": 9.0, "profiled_step_ms": 10.0, "ops": ops}
    figures = profiles.torch_figures(found, 5, casts=False)
    assert figures["kinds"][kinds.PRODUCTS]["ms"] == 6.0
    assert figures["rest"]["ms"] == 4.0


def test_blocks_of_a_model_count_together_among_what_takes_most():
    ops = [
        {"name": f"gpt_1/block{n}_feed_in_1/MatMul", "shape": "2x2 -> 2x2", "ms": n, "count": 0.5}
        for n in (1, 2, 3, 1, 2, 3)
    ]
    ops.append({"name": "gpt_1/block1_feed_in_1/MatMul", "shape": "4x4", "ms": 1.0, "count": 1.0})
    first, second = profiles.top(ops)
    assert first["name"] == "gpt/block*_feed_in/MatMul"
    assert (first["ms"], first["count"], second["ms"]) == (12, 3, 1)


@pytest.fixture(scope="module")
def profiled():
    """Profiles a few steps of the network that words of a command line tell of."""
    pytest.importorskip("tensorflow")
    from mpt.telemetry import peaks

    words = (
        *("dataset=synthetic", "dataset.examples=512", "dataset.validation_fraction=0"),
        *("trainer.steps=64", "trainer.epochs=null", "trainer.jit_compile=false"),
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("matmul_peak", "convolution_peak", "bandwidth"):
            patch.setattr(peaks, name, lambda dtype: 1e11)
        yield lambda *more: profiles.of_run([*words, *more], warmup=2, steps=4)


@pytest.fixture(scope="module")
def real(profiled):
    return profiled("model=mlp", "model.hidden=[256]", "dataset.shape=[64]", "batch_size=128")


def test_a_real_profile_adds_up(real):
    parts = [one["ms"] for one in real["kinds"].values()]
    assert sum(parts) + real["rest"]["ms"] == pytest.approx(real["wall_ms"], rel=1e-6)
    assert min(parts) >= 0
    assert real["wall_ms"] <= real["profiled_step_ms"]
    assert sum(one["core_ms"] for one in real["kinds"].values()) <= (
        real["cores"] * real["wall_ms"] * 1.000001
    )


def test_a_real_profile_counts_each_product_once(real):
    """Two layers: forward two, backward one for the first, which has no one to pass it on to."""
    assert real["kinds"][kinds.PRODUCTS]["count"] == 5
    assert {"256x10", "128x64", "64x256"} <= {
        shape
        for each in real["top"]
        for shape in each["shape"].replace(" ->", ",").replace(" float32", "").split(", ")
    }


def test_a_real_profile_relates_to_flops_and_bytes(real):
    assert real["flops_per_step"] == 3 * 128 * 2 * (64 * 256 + 256 * 10)
    variables = 64 * 256 + 256 + 256 * 10 + 10
    assert real["bytes"]["least"] >= 6 * 4 * variables  # Adam reads and writes three arrays
    assert real["bytes"]["least"] < real["bytes"]["moved"]
    assert real["share"] == pytest.approx(real["flops_per_step"] / (1e8 * real["step_ms"]))


@pytest.mark.slow
def test_a_real_profile_tells_one_kernel_of_mpts_from_another(profiled):
    """XLA compiles each by itself, and calls their instructions by the same names."""
    found = profiled(
        *("model=gpt", "model.depth=1", "model.width=128", "model.heads=2", "batch_size=16"),
        *("dataset.vocabulary=64", "dataset.length=64", "precision=mixed_bfloat16"),
    )
    assert found["kinds"][kinds.ACTIVATIONS]["count"] == 2  # GELU, forward and backward
    for kind in (kinds.NORMALIZATION, kinds.SOFTMAX):
        assert found["kinds"][kind]["count"] > 2


def test_documents_show_both_sides(real, tmp_path):
    ours = {"work": "mlp", "policy": "float32", **real}
    theirs = profile("torch")
    for found in (ours, theirs):
        path = tmp_path / f"{profiles.file_name(found)}.json"
        path.write_text(json.dumps(found))
    text = "\n".join(profiles_tables.documented(tmp_path))
    assert f"| **step** | **{real['wall_ms']:.1f}** |" in text
    assert "PyTorch 2.0 ms" in text
    gap = real["kinds"][kinds.PRODUCTS]["ms"] - 1.5
    assert f"matrix products {gap:+.1f}" in text
    assert profiles.described(ours)[0].startswith("mlp float32, mpt")
