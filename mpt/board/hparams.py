"""TensorBoard's HParams page, with the columns of all runs.

Each run writes the page's columns as it knows them, for any TensorBoard to show. TensorBoard takes
those of one run, an arbitrary one; here they are all runs' settings and metrics, those settings
first in which the runs differ, and the rows are in the order of the runs' names.
"""

import re
from typing import Any

from tensorboard.plugins.hparams import api_pb2, backend_context, hparams_plugin, metadata

TagsOfRuns = dict[str, dict[str, bytes]]


class AllRunsHParamsPlugin(hparams_plugin.HParamsPlugin):
    """The page's plugin; `context` is TensorBoard's `base_plugin.TBContext`."""

    def __init__(self, context: Any):
        super().__init__(context)
        self._context = _AllRuns(context)


class _AllRuns(backend_context.Context):
    """What the page asks for. The two methods are TensorBoard 2.20's and 2.21's."""

    def hparams_metadata(self, *args: Any, **kwargs: Any) -> TagsOfRuns:
        found = super().hparams_metadata(*args, **kwargs)
        return dict(sorted(found.items(), key=lambda item: natural(item[0])))

    def _find_experiment_tag(
        self, hparams_run_to_tag_to_content: TagsOfRuns, include_metrics: bool
    ) -> api_pb2.Experiment | None:
        tags_of_runs = hparams_run_to_tag_to_content
        contents = [tags.get(metadata.EXPERIMENT_TAG) for tags in tags_of_runs.values()]
        found = [metadata.parse_experiment_plugin_data(each) for each in contents if each]
        if not found:
            return None
        columns = self._compute_hparam_infos(tags_of_runs)
        infos: dict[tuple[str, str], api_pb2.MetricInfo] = {}
        for experiment in found if include_metrics else ():
            for info in experiment.metric_infos:
                infos.setdefault((info.name.group, info.name.tag), info)
        return api_pb2.Experiment(hparam_infos=columns, metric_infos=infos.values())


def natural(name: str) -> list[tuple[int, str]]:
    """A key for sorting that puts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
