"""Two processes under torchrun do what one does with twice the batch."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from training_data import write_frames
from weights_at_hand import ROOT

import anipot
from anipot.training import read_settings, train

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")

SETTINGS = {
    # 49 structures: one is left for the last batch, so that a process gets none; and many batches lack an element.
    "data": {
        "fields": {"energies": "energy [eV]", "forces": "forces [eV/Å]"},
        "split": {"train": 49, "validation": 5, "test": 6},
    },
    "model": {
        "representation": "AEVComputer.like_1x",
        "head": {"class": "ANIModel", "hidden": [16, 8], "activation": {"class": "CELU", "alpha": 0.1}},
        "dtype": "float64",
    },
    "optimizer": {"kind": "AdamW", "lr": 1e-3, "weight_decay": [0, 1e-5, 1e-6], "biases": 1e-7},
    "schedule": {"kind": "plateau", "patience": 0},
    "ema": 0.9,
    "checkpoint_seconds": 0,
    "tensorboard": False,
    "trainer": {"max_epochs": 2, "log_every_n_steps": 1, "gradient_clip_val": 100.0},
}
MAIN = "import sys\nfrom anipot.cli import main\nsys.exit(main())\n"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes(tmp_path: Path) -> None:
    config, program = tmp_path / "small.yaml", tmp_path / "main.py"
    data = {**SETTINGS["data"], "path": str(write_frames(tmp_path / "frames.xyz", 60))}
    config.write_text(yaml.safe_dump(SETTINGS | {"data": data}))
    program.write_text(MAIN)
    one = train(read_settings(config, [f"folder={tmp_path / 'one'}", "data.batch_size=8"]))
    two = tmp_path / "two"
    launch = ["--nproc-per-node", "2", "--master-port", str(free_port()), str(program)]
    command = [sys.executable, "-m", "torch.distributed.run", *launch, "train", str(config), f"folder={two}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, "data.batch_size=4"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    curves = [list(csv.reader((folder / "metrics.csv").read_text().splitlines())) for folder in (one, two)]
    assert len(curves[0]) == 1 + 2 * 7 + 2 * 2
    for ours, theirs in zip(curves[0][1:], curves[1][1:], strict=True):
        assert [float(x) for x in ours if x] == pytest.approx([float(x) for x in theirs if x], rel=1e-10)
    models = [anipot.load(folder / "model.safetensors") for folder in (one, two)]
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert done.stdout.count("best model") == 1, "only the first process reports"
