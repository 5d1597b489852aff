"""Train a multimodal autoencoder: one folder for a run, and nothing of it is ever lost.

    settings.py     every number of a run, by name; read from TOML, checked before any data is
    errors.py       errors that are told once, however many processes there are
    signals.py      what SIGTERM and Ctrl-C do
    lamb.py         the paper's optimiser
    optimisers.py   the one that settings name, and its rate at each step
    averages.py     the moving average of the weights
    gather.py       what latents gather from tokens, and the way back, by hand
    fast.py         the model's function with gradients, for much less work
    losses.py       what a model is asked for, and how wrong its answer is
    tally.py        what a step comes to, over all its clips
    batches.py      which clips a step sees, and what of them is masked, keyed by counters
    start.py        settings -> the model to begin with, fresh or from other weights
    split.py        clips to train on, clips to validate on
    processes.py    several processes that work, fail and speak as one
    checkpoints.py  states on disk, whole or not at all
    folder.py       the folder of a run, with all that is needed to go on
    journal.py      the losses of every step, in a file
    validate.py     how well held-out clips come back
    board.py        TensorBoard
    watch.py        progress on the terminal
    record.py       all that is told while it goes on
    loop.py         the loop

Each imports only from those above it. Needs the extra packages of `perceivio[train]`.
"""

from importlib.util import find_spec

from ..errors import PerceivioError

for _package in ("pyarrow", "fsspec", "accelerate", "tensorboard"):
    if find_spec(_package) is None:
        raise PerceivioError(f"training needs {_package}: pip install 'perceivio[train]'")
