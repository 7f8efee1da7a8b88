"""All settings of a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from anipot.training.optimizers import OptimizerSettings
from anipot.training.outputs import ModelOutput
from anipot.training.schedules import ScheduleSettings

_BOTH = (ModelOutput("energies", scaling="sqrt_atoms"), ModelOutput("forces", weight=0.1))


@dataclass
class SplitSettings:
    """How the data are divided.

    Attributes
    ----------
    train, validation, test
        Fractions (0.8) or numbers of structures (1000); -1 for what is left.
    by
        What stays together: conformer, group, formula, block or order.
    seed
        Of the random choice.
    block
        Rows of a block.
    file
        A split that exists: what `anipot data split` writes, a published file of numbers, or published for that of a
        published data set. Where it has no validation, this is taken from train.
    names
        What the parts are called in the file: {train: train_1, test: test_1}.
    """

    train: int | float = 0.8
    validation: int | float = 0.1
    test: int | float = 0.1
    by: str = "conformer"
    seed: int = 0
    block: int = 1000
    file: str | None = None
    names: dict[str, str] = field(default_factory=dict)


@dataclass
class DataSettings:
    """Where the data are and what is done to them.

    Attributes
    ----------
    path
        File, files or folder.
    published
        Name of a published data set, such as rmd17:ethanol, which is downloaded where there is no path.
    layout, fields, length, pbc
        As for anipot.data.open: what the file is, where it has what in which unit, and whether it is periodic.
    validation, test
        Files of these parts, where they have files of their own; path is then divided without them, and a fraction
        for train means all that is left.
    split
        How path is divided.
    checks
        Bad records: refuse, skip, or ignore for no look at them.
    check_limits
        What is bad: elements, max_force, min_distance, max_deviation, duplicates, as for anipot.data.checks.Checks.
    limits
        Structures that are kept: elements, min_atoms, max_atoms, max_force, min_energy, max_energy, has.
    transforms
        What is done to labels: a list of objects, {class: MaskLabels, names: forces}.
    batch_size
        Structures of a batch on each process.
    validation_batch_size
        The same for validation and test; batch_size by default.
    workers
        Processes that read ahead, where the data do not fit into memory.
    memory
        GiB; smaller data sets are held in memory.
    """

    path: str | list[str] | None = None
    published: str | None = None
    layout: str | None = None
    fields: dict[str, Any] | None = None
    length: str | None = None
    pbc: bool | list[bool] | None = None
    validation: str | list[str] | None = None
    test: str | list[str] | None = None
    split: SplitSettings = field(default_factory=SplitSettings)
    checks: str = "refuse"
    check_limits: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    transforms: list[dict[str, Any]] = field(default_factory=list)
    batch_size: int = 32
    validation_batch_size: int | None = None
    workers: int = 0
    memory: float = 1.0


@dataclass
class ModelSettings:
    """What is trained.

    Attributes
    ----------
    elements
        Symbols in the order of the networks; by default those of the training data, by atomic number.
    representation, head
        Objects, {class: SchNet, num_features: 64}. Dense networks are given by hidden: [64, 32] and activation.
    properties
        Further heads by name.
    terms
        Energy terms beside the network.
    self_energies
        fit: by least squares from the training data; robust: the same, not moved by single absurd energies; data:
        what the file says of single atoms; or numbers in Hartree by symbol. With start_from also keep and shift, the
        default: those of the old model, moved by what fits its errors on the new data.
    start_from
        A file, the folder of a run or a name in the zoo: its weights are trained further. Where properties alone are
        trained, on a representation that has nothing to learn or is frozen, its energies stay as they are, those of
        all members.
    freeze
        Patterns of the names of parameters that stay as they are, such as head.*.linears.1
    standardise
        Whether networks see features of mean 0 and size 1, where the representation has nothing to learn; by default
        so; the networks of a model that this one starts from stay as they are.
    output_scale
        Size of the energies of atoms in Hartree: what the networks return, and by which the steps of their last layers
        are multiplied; by default from the training data, or 1 for a model that starts from another.
    weights
        How networks of the heads start: default, as torch has it, or kaiming, normal with biases 0, as TorchANI.
    dtype
        float32 or float64.
    name
        Of the model.
    """

    elements: list[str] | None = None
    representation: dict[str, Any] | str = "AEVComputer.like_1x"
    head: dict[str, Any] | str | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    terms: list[dict[str, Any] | str] = field(default_factory=list)
    self_energies: str | dict[str, float] | None = None
    start_from: str | None = None
    freeze: list[str] = field(default_factory=list)
    standardise: bool | None = None
    output_scale: float | None = None
    weights: str = "default"
    dtype: str = "float32"
    name: str = ""


@dataclass
class StoppingSettings:
    """When to stop before the end.

    Attributes
    ----------
    patience
        Validations without an improvement.
    monitor
        Of what.
    min_delta
        What counts as one.
    """

    patience: int = 50
    monitor: str = "val_loss"
    min_delta: float = 0.0


@dataclass
class TrainingSettings:
    """A training.

    Attributes
    ----------
    folder
        Where everything goes.
    data, model
        What is trained on what.
    outputs
        What is learned and reported.
    optimizer, schedule
        How.
    ema
        Decay of the moving average of weights, such as 0.99; none by default.
    stopping
        Early stopping; none by default.
    trainer
        Arguments of lightning.Trainer: max_epochs, max_steps, max_time, gradient_clip_val, val_check_interval,
        check_val_every_n_epoch, accelerator, devices, num_nodes, precision, log_every_n_steps, …
    seed
        Of weights and of the order of the data.
    members
        Number of models, from seed, seed + 1, …, that are joined to an ensemble.
    folds
        Whether training and validation data are divided into as many folds as there are members, each of which is the
        validation of one (cross-validation).
    member
        Trains this member alone, counted from 0; so members can be trained side by side, one command each.
    loss_unit, error_unit
        Units of energy in the loss and in reports.
    best
        What is lowest in the model that is kept.
    checkpoint_seconds
        Time between two checkpoints.
    cache
        GiB for features, where energies alone are trained and the representation is fixed; 0 for none.
    tensorboard
        Whether to write logs for TensorBoard.
    contributions
        Steps between records of an sc-SchNet's layers; 0 for none.
    details
        Facts that the model carries: level_of_theory, citation, license.
    """

    folder: str = ""
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    outputs: list[ModelOutput] = field(default_factory=lambda: list(_BOTH))
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings | None = None
    ema: float | None = None
    stopping: StoppingSettings | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    members: int = 1
    folds: bool = False
    member: int | None = None
    loss_unit: str = "kcal/mol"
    error_unit: str = "kcal/mol"
    best: str = "val_loss"
    checkpoint_seconds: float = 60.0
    cache: float = 2.0
    tensorboard: bool = True
    contributions: int = 100
    details: dict[str, Any] = field(default_factory=dict)
