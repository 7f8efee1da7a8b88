"""A million conformers: a shuffled epoch in memory that does not grow with the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from weights_at_hand import ROOT

from anipot.data import QUANTITIES, Block
from anipot.data import open as open_dataset
from anipot.data.store import StoreWriter

#: Reads one epoch, and prints what it saw and the most memory that it ever took, in MiB.
EPOCH = """
import json, re, sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
import anipot.data.batches
from anipot.data import open as open_dataset

anipot.data.batches.POOL_ROWS = 32768  # so that the smaller file makes several pools as well
dataset = open_dataset(sys.argv[1])
train = dataset.split({"train": 0.9, "validation": 0.1}, seed=1)["train"]
batches = train.batches(1024, shuffle=True, seed=2, memory=0)
assert not batches.held
seen = np.zeros(dataset.num_rows, dtype=bool)
structures = atoms = slots = 0
wrong = 0
for batch in batches:
    index = batch.index.numpy()
    wrong += int(seen[index].sum()) + int((batch.properties["energies"].numpy() != -index).sum())
    seen[index] = True
    structures += len(batch)
    atoms += int((batch.species.numpy() >= 0).sum())
    slots += batch.species.numel()
# getrusage would tell of the process that started this one, too
memory = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps({"structures": structures, "wrong": wrong, "padding": 1 - atoms / slots, "memory": memory}))
"""


def write_store(path, n: int) -> None:
    """Write structures of 2 to 9 atoms, whose energies are minus the rows that they will have."""
    rng = np.random.default_rng(0)
    sizes, counts = np.unique(rng.integers(2, 10, n), return_counts=True)
    row = 0
    with StoreWriter(path, {"energies": QUANTITIES["energies"]}, precision="single", buffer=1 << 30) as writer:
        for a, count in zip(sizes.tolist(), counts.tolist(), strict=True):
            species = rng.integers(6, 9, (count, a))
            x = np.broadcast_to(rng.normal(size=(1, a, 3)), (count, a, 3))  # compresses, and is written, fast
            writer.append(Block(species, x, {"energies": -np.arange(row, row + count, dtype=float)}))
            row += count


def epoch(path) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", EPOCH, str(path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory where Linux says it")
def test_memory_does_not_grow_with_the_file(tmp_path):
    found = {}
    for n in (100_000, 1_000_000):
        write_store(tmp_path / f"{n}.h5", n)
        found[n] = epoch(tmp_path / f"{n}.h5")
        assert found[n]["structures"] == 9 * n // 10
        assert found[n]["wrong"] == 0
        assert found[n]["padding"] < 0.1
    # held in memory, the larger would take 90 MiB more
    assert found[1_000_000]["memory"] - found[100_000]["memory"] < 20, found
    assert open_dataset(tmp_path / "1000000.h5").num_rows == 1_000_000
