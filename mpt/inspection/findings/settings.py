"""Findings about the configuration itself."""

from __future__ import annotations

from collections.abc import Iterator

from mpt import precision
from mpt.inspection.findings.finding import Finding
from mpt.inspection.subject import Subject


def override_without_effect(subject: Subject) -> Iterator[Finding]:
    """A rule that could be left out without any layer taking another policy."""
    for rule in precision.rules_without_effect(subject.model):
        named = [path for path, layer in precision.walk(subject.model) if rule.names(path, layer)]
        yield Finding(
            "override_without_effect",
            named[0] if named else None,
            f"{rule.where} ({rule.match}: {rule.policy}) changes no layer: what it names is under "
            f"{rule.policy} without it, or a later rule decides.",
            f"take {rule.where} out, or name other layers",
        )


def loss_scale_missing(subject: Subject) -> Iterator[Finding]:
    """float16 gradients without a scale, or a step that never scales."""
    if subject.step is not None and not subject.step.scaled:
        yield Finding(
            "loss_scale_missing",
            subject.model.name,
            "The model's train_step never calls self.optimizer.scale_loss(loss): mpt train "
            "refuses it.",
            "call loss = self.optimizer.scale_loss(loss) inside the gradient tape",
        )
    elif subject.prepared.optimizer.mode == "none" and precision.computes_float16(subject.model):
        yield Finding(
            "loss_scale_missing",
            None,
            "Layers compute in float16 with loss_scale=none: gradients below 6e-8 become zero "
            "unseen.",
            "loss_scale=dynamic",
        )


def loss_scale_useless(subject: Subject) -> Iterator[Finding]:
    """A scale where no layer computes in float16."""
    mode = subject.prepared.optimizer.mode
    if mode != "none" and not precision.computes_float16(subject.model):
        yield Finding(
            "loss_scale_useless",
            None,
            f"loss_scale={mode} where no layer computes in float16: bfloat16 and float32 have "
            "range enough.",
            "loss_scale=auto",
        )
