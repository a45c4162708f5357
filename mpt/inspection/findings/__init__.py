"""What to change in a model or in its configuration, layer by layer, each with its remedy."""

from mpt.inspection.findings.finding import Finding
from mpt.inspection.findings.islands import float32_islands
from mpt.inspection.findings.numbers import (
    attention_multiplies_first,
    float16_reduction,
    float16_softmax,
    half_precision_add_loss,
    half_precision_metric,
    half_precision_outputs,
)
from mpt.inspection.findings.settings import (
    loss_scale_missing,
    loss_scale_useless,
    override_without_effect,
)
from mpt.inspection.findings.tensor_cores import tensor_core_dimensions
from mpt.inspection.subject import Subject

__all__ = ["Finding", "findings"]

CHECKS = (
    half_precision_outputs,
    half_precision_add_loss,
    float16_softmax,
    float16_reduction,
    attention_multiplies_first,
    half_precision_metric,
    loss_scale_missing,
    loss_scale_useless,
    override_without_effect,
    float32_islands,
    tensor_core_dimensions,
)


def findings(subject: Subject) -> list[Finding]:
    """All findings, those about numbers first, then settings, then speed."""
    return [finding for check in CHECKS for finding in check(subject)]
