"""Noise2Void by careamics in an environment of its own; it imports no part of this project.

    PYTHON alternatives_n2v.py FOLDER

FOLDER holds `input.npy` (Z, Y, X), the volume to denoise, `train.npy`, another noisy volume
(Noise2Void trains on both), and `request.json`, {"seed": 0, "steps": N or null, "seconds": S or
null}: one of the two ends the training. The script writes `0.npy` and `answer.json` with the
seconds of training and of application. `alternatives.py` calls it:

    python -m venv n2v && n2v/bin/pip install careamics
    python benchmarks/alternatives.py --n2v n2v/bin/python

Source: A. Krull, T.-O. Buchholz, F. Jug, CVPR 2019.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from careamics import CAREamist
from careamics.config import create_n2v_config
from lightning.pytorch import Callback, seed_everything

PATCH = (8, 32, 32)
BATCH = 4


class Stop(Callback):
    """End a training after a number of steps or seconds, whichever is given."""

    def __init__(self, steps: int | None, seconds: float | None) -> None:
        self.steps, self.seconds = steps, seconds
        self.started = time.process_time()

    def on_train_batch_end(self, trainer, *_) -> None:
        """Stop the training when its time is over."""
        late = self.seconds is not None and time.process_time() - self.started >= self.seconds
        if late or (self.steps is not None and trainer.global_step >= self.steps):
            trainer.should_stop = True


def main() -> None:
    """Train, then denoise."""
    folder = Path(sys.argv[1])
    image, other = (np.load(folder / f"{n}.npy").astype(np.float32) for n in ("input", "train"))
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    seed_everything(request["seed"])
    config = create_n2v_config(
        experiment_name="n2v",
        data_type="array",
        axes="ZYX",
        patch_size=PATCH,
        batch_size=BATCH,
        num_epochs=100_000,
        n_val_patches=4,
    )
    stop = Stop(request["steps"], request["seconds"])
    trained = CAREamist(config, work_dir=folder, callbacks=[stop], enable_progress_bar=False)
    started = stop.started = time.process_time()
    trained.train(train_data=[image, other])
    middle = time.process_time()
    predictions, _ = trained.predict(image)
    answer = {
        "train": middle - started,
        "apply": time.process_time() - middle,
        "steps": int(trained.trainer.global_step),
    }
    denoised = np.asarray(predictions[0], np.float32).reshape(image.shape)
    np.save(folder / "0.npy", denoised)
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
