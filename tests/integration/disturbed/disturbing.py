"""What happens to a run's disk while it trains: a Keras callback that runs a shell command."""

import os
import subprocess

import keras


class Disturbing(keras.callbacks.Callback):
    """Runs the command in DISTURB, "STEP COMMAND", after that step; none where that is not set."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        step, _, command = os.environ.get("DISTURB", "0").partition(" ")
        if self.steps == int(step):
            subprocess.run(command, shell=True, check=True)
