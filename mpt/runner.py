"""One run, from its configuration to its report."""

import time
import traceback
from dataclasses import asdict
from pathlib import Path

import keras
import tensorflow as tf

from mpt import errors, precision, smoke
from mpt.console import Console
from mpt.execution import make_loop
from mpt.loop import EvaluationLoop, iterate
from mpt.preparation import Prepared, prepare
from mpt.provenance import Clock, describe
from mpt.report import RunReport
from mpt.run_folder import RunFolder
from mpt.schema import TrainConfig
from mpt.stopping import DivergenceRules, Reason
from mpt.telemetry import gradients, memory
from mpt.telemetry.compute import Compute, forward_flops, matmul_peak
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.recorder import SOURCES, Recorder
from mpt.telemetry.tensorboard import Board
from mpt.telemetry.throughput import Throughput
from mpt.training import Outcome, Schedule, Training
from mpt.tuning import StepsPerExecution

EXIT_CODES = {
    "completed": errors.OK,
    "stopped_early": errors.OK,
    "diverged": errors.DIVERGED,
    "oom": errors.OUT_OF_MEMORY,
    "interrupted": errors.INTERRUPTED,
    "failed": errors.FAILED,
}
