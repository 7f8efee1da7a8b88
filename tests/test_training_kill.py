"""The training command, killed with -9 in the middle of an epoch and given again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_data import SMALL, assert_same_end, write_frames
from weights_at_hand import ROOT

from anipot.training import read_settings, train

COMMAND = [sys.executable, "-c", "import sys; from anipot.cli import main; sys.exit(main())", "train"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")
def test_sigkill_in_mid_epoch(tmp_path):
    """The weights in the end are those of a run that nobody disturbed."""
    frames = write_frames(tmp_path / "frames.xyz", 40)
    config = tmp_path / "small.yaml"
    config.write_text("".join(f"{k}: {v}\n" for k, v in (("seed", 3), ("members", 1))))
    overrides = [f"data.path={frames}", *SMALL, "trainer.max_epochs=6"]
    whole = tmp_path / "whole"
    train(read_settings(config, [*overrides, f"folder={whole}"]))
    killed = tmp_path / "killed"
    command = [*COMMAND, str(config), *overrides, f"folder={killed}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=tmp_path)
    try:
        while process.poll() is None and not _mid_epoch(killed / "metrics.csv"):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not (killed / "results.json").exists(), "it was done before it was killed"
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, cwd=tmp_path, timeout=300)
    assert_same_end(whole, killed)


def _mid_epoch(metrics: Path) -> bool:
    """Whether a step of the second epoch has been logged."""
    return metrics.exists() and "\n5," in metrics.read_text()
