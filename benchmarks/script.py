"""The script that anybody would write: PyTorch's DataLoader, `imagecorruptions`, one session per model.

It runs in an environment of a peer (`benchmarks.peers`), so it imports nothing of qharness. Its one argument is JSON:
models, pictures, corruptions, severity, batch, workers, size, mean and std. It prints the seconds that everything took
after a first picture under every condition, which pays for imports and compilation.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import numpy as np
import onnxruntime as ort
import torch
from imagecorruptions import corrupt
from PIL import Image

warnings.simplefilter("ignore")
WISH = json.loads(sys.argv[1])


class Pictures(torch.utils.data.Dataset[object]):
    """Every picture under one corruption, as the models take it."""

    def __init__(self, files: list[str], corruption: str) -> None:
        self.files, self.corruption = files, corruption

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        picture = Image.open(self.files[index]).convert("RGB")
        width, height = picture.size
        scale = WISH["resize"] / min(width, height)
        picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        size = WISH["size"]
        left, top = (picture.width - size) // 2, (picture.height - size) // 2
        levels = np.asarray(picture.crop((left, top, left + size, top + size)))
        if self.corruption != "clean":
            levels = corrupt(levels, severity=WISH["severity"], corruption_name=self.corruption)
        values = (levels.astype(np.float32) / 255 - np.float32(WISH["mean"])) / np.float32(WISH["std"])
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def score(files: list[str], workers: int) -> None:
    """Run every model over every corruption of every picture, as such scripts do: corrupt again for each model."""
    for model in WISH["models"]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = WISH["threads"]
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for corruption in WISH["corruptions"]:
            loader = torch.utils.data.DataLoader(Pictures(files, corruption), WISH["batch"], num_workers=workers)
            for batch in loader:
                session.run(None, {name: batch.numpy()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    score(WISH["pictures"][:1], 0)
    started = time.perf_counter()
    score(WISH["pictures"], WISH["workers"])
    print(json.dumps(time.perf_counter() - started))
