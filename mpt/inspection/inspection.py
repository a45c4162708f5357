"""An inspection as a whole: what the console shows and what `--json` holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpt.inspection.findings import Finding, findings
from mpt.inspection.flops import Flops
from mpt.inspection.memory import Estimate, estimates
from mpt.inspection.opaque import Opaque, opaque_parts
from mpt.inspection.subject import Subject
from mpt.inspection.table import Row, rows
from mpt.variables import parameters


@dataclass
class Inspection:
    """All that was seen of one configuration.

    Attributes:
        reason: why the policy is what it is.
        parameters: of the whole model, as far as Keras knows them. trainable: those trained.
        estimates: memory, policy by policy.
        opaque: what could not be looked into.
        notes: what a reader of the numbers should know.
        warnings: what a run would warn of.
    """

    name: str
    batch_size: int
    requested: str
    policy: str
    reason: str
    tf32: bool
    loss_scale: str
    parameters: int
    trainable: int
    flops: Flops
    layers: list[Row]
    estimates: list[Estimate]
    opaque: list[Opaque]
    findings: list[Finding]
    notes: list[str]
    warnings: list[str]

    def as_json(self) -> dict[str, Any]:
        """The inspection in plain values; null is "not measured"."""
        activations = [each.activations for each in self.estimates if each.chosen]
        return {
            "model": self.name,
            "batch_size": self.batch_size,
            "precision": {
                "requested": self.requested,
                "policy": self.policy,
                "reason": self.reason,
                "tf32": self.tf32,
                "loss_scale": self.loss_scale,
            },
            "layers": [row.as_json() for row in self.layers],
            "totals": {
                "parameters": self.parameters,
                "trainable_parameters": self.trainable,
                "forward_flops": self.flops.total,
                "half_precision_flops": self.flops.half,
                "half_precision_share": _share(self.flops),
                "activation_bytes": activations[0],
                "memory": {each.policy: each.as_json() for each in self.estimates},
            },
            "findings": [vars(each) for each in self.findings],
            "opaque": [vars(each) for each in self.opaque],
            "notes": self.notes,
            "warnings": self.warnings,
        }


def _share(flops: Flops) -> float | None:
    return flops.half / flops.total if flops.total and flops.half is not None else None


def inspect(subject: Subject) -> Inspection:
    """Look at everything."""
    prepared, model = subject.prepared, subject.model
    opaque = opaque_parts(subject)
    return Inspection(
        name=model.name,
        batch_size=subject.config.batch_size,
        requested=prepared.choice.requested,
        policy=prepared.choice.policy,
        reason=prepared.choice.reason,
        tf32=prepared.choice.tf32,
        loss_scale=prepared.optimizer.mode,
        parameters=parameters(model.weights),
        trainable=parameters(model.trainable_weights),
        flops=subject.flops,
        layers=rows(subject, opaque),
        estimates=estimates(subject),
        opaque=opaque,
        findings=findings(subject),
        notes=subject.notes,
        warnings=prepared.warnings,
    )
