"""Evaluation with the moving average of the weights."""

from mpt import optim
from mpt.loop import EvaluationLoop


class AveragedEvaluation(EvaluationLoop):
    """An evaluation loop whose passes see the weights' average, if the optimizer keeps one.

    These are the weights that a run ends with and saves; training goes on with its own.
    """

    def run(self) -> dict[str, float] | None:
        """As the base's."""
        with optim.averaged(self._model):
            return super().run()
