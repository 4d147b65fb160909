"""Times `imagecorruptions` in an environment of its own: ``python peer.py PICTURE.npy``, requests on standard input.

A request is a line of JSON, [corruption, severity, seconds]; the answer is the median of the milliseconds that a call
took, over so many seconds, after a fifth of them that does not count. This file imports nothing of qharness, whose
dependencies that environment does not have.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings

import cv2
import numpy as np
from imagecorruptions import corrupt

warnings.simplefilter("ignore")
cv2.setNumThreads(1)
picture = np.load(sys.argv[1])
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    name, severity, seconds = json.loads(line)
    begun = time.perf_counter()
    spent: list[float] = []
    while not spent or time.perf_counter() < begun + 1.2 * seconds:
        started = time.perf_counter()
        corrupt(picture, severity=severity, corruption_name=name)
        if started > begun + 0.2 * seconds:
            spent.append(1e3 * (time.perf_counter() - started))
    print(json.dumps(statistics.median(spent)), flush=True)
