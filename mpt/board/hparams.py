"""TensorBoard's HParams page, with the columns of all runs.

Each run writes the page's columns as it knows them, for any TensorBoard to show. TensorBoard takes
those of one run, an arbitrary one; here they are the settings and metrics of all runs, and those
settings come first in which the runs differ.
"""

from typing import Any

from tensorboard.plugins.hparams import api_pb2, backend_context, hparams_plugin, metadata

TagsOfRuns = dict[str, dict[str, bytes]]


class AllRunsHParamsPlugin(hparams_plugin.HParamsPlugin):
    """The page's plugin; `context` is TensorBoard's `base_plugin.TBContext`."""

    def __init__(self, context: Any):
        super().__init__(context)
        self._context = _AllRuns(context)


class _AllRuns(backend_context.Context):
    """What the page asks for; the method replaced here is TensorBoard 2.20's and 2.21's."""

    def _find_experiment_tag(
        self, hparams_run_to_tag_to_content: TagsOfRuns, include_metrics: bool
    ) -> api_pb2.Experiment | None:
        runs = sorted(hparams_run_to_tag_to_content.items())
        contents = [tags.get(metadata.EXPERIMENT_TAG) for _, tags in runs]
        found = [metadata.parse_experiment_plugin_data(each) for each in contents if each]
        if not found:
            return None
        columns = self._compute_hparam_infos(dict(runs))
        infos: dict[tuple[str, str], api_pb2.MetricInfo] = {}
        for experiment in found if include_metrics else ():
            for info in experiment.metric_infos:
                infos.setdefault((info.name.group, info.name.tag), info)
        return api_pb2.Experiment(hparam_infos=columns, metric_infos=infos.values())
