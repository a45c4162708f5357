"""Precision of a model: build it under a policy, check it, and speed up what it slows.

`build` makes the model, with overrides and a float32 head; `verify` completes and checks that by
a dry run. `table` tells each layer's dtypes, `apply_table` gives them to a loaded model. `fuse` and
`unfused` switch BatchNormalization between TensorFlow's fused kernel and Keras's own operations.
`computing_in` has the same model compute in another dtype for a while; `first_cast` tells what it
casts its input to; `walk` lists its layers with their paths, `is_functional` and `graph_of` tell a
graph of them. `policies_under` and `rules_without_effect` tell what another configuration would
make of it.
"""

from mpt.precision.audit import verify
from mpt.precision.float8 import in_float8
from mpt.precision.fused import fuse, unfuse, unfused
from mpt.precision.inputs import first_cast
from mpt.precision.layers import graph_of, is_container, is_functional, keras_class, walk
from mpt.precision.policy import build
from mpt.precision.reference import computing_in
from mpt.precision.table import apply_table, computes_float16, notes, table
from mpt.precision.variants import policies_under, rules_without_effect

__all__ = [
    "apply_table",
    "build",
    "computes_float16",
    "computing_in",
    "first_cast",
    "fuse",
    "graph_of",
    "in_float8",
    "is_container",
    "is_functional",
    "keras_class",
    "notes",
    "policies_under",
    "rules_without_effect",
    "table",
    "unfuse",
    "unfused",
    "verify",
    "walk",
]
