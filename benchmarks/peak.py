"""Peak memory of one reconstruction, in a process of its own: `python -m benchmarks.peak WHOSE
FOLDER` prints MB held after loading and MB at the peak."""

import resource
import sys
from pathlib import Path

from perceivio.config import preset

from . import subjects


def held() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


whose, folder = sys.argv[1], Path(sys.argv[2])
inputs = subjects.clip(preset("base"))
if whose == "perceivio":
    model = subjects.ours(folder)
    loaded = held()
    model.reconstruct(inputs)
else:
    theirs = subjects.HuggingFace(folder)
    loaded = held()
    theirs(inputs, theirs.chunk())  # each of the 128 chunks needs the same
print(loaded, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
