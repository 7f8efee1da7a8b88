"""A potential, what it learns and how, as a ``LightningModule``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from anipot.data.packed import Batch
from anipot.ensembles import EnsemblePotential
from anipot.known import remembering
from anipot.potential import Potential
from anipot.training.losses import over_processes
from anipot.training.metrics import MeanTerms, error_metrics, means_of, update_errors
from anipot.training.optimizers import OptimizerSettings
from anipot.training.outputs import ModelOutput, terms_of
from anipot.training.predict import OF_ENERGY, BatchLike, predict
from anipot.training.schedules import ScheduleSettings


class AtomisticTask(LightningModule):
    """Ties a potential, a list of outputs, an optimizer and a schedule together for ``lightning.Trainer``.

    Parameters
    ----------
    potential
        Is trained in place. Heads that no output needs are frozen.
    outputs
        What is learned and reported.
    optimizer
        ``OptimizerSettings``, or anything that takes the potential and returns a ``torch.optim.Optimizer``.
    schedule
        ``ScheduleSettings``, or anything that takes the optimizer and returns what Lightning calls a scheduler
        configuration; none by default.
    loss_unit
        Unit of energy in the loss. Relative weights of energies, forces and stress do not depend on it, but the size of
        gradients does, and with it plain SGD.
    error_unit
        Unit of energy in reported errors.
    energies
        How energies of a batch are computed where nothing else is trained, in place of ``predict``; a
        ``FeatureCache`` takes this place.

    Notes
    -----
    Losses are ``train_loss`` and ``val_loss``, with one part for each output; errors are ``val_energies_mae`` and the
    like. Trained in several processes, means run over the labels of all, so that W processes do what one does with W
    times the batch.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import torch
    >>> from anipot import Atomwise, EnergyShifter, Potential, SchNet
    >>> from anipot.training import ModelOutput
    >>> model = Potential(["H", "O"], SchNet(2, 16), Atomwise.pyramid(16), EnergyShifter([-0.5, -75.0]))
    >>> task = AtomisticTask(model, [ModelOutput("energies", scaling="atom"), ModelOutput("forces")])
    >>> x = torch.tensor([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]])
    >>> water = SimpleNamespace(species=torch.tensor([[8, 1, 1]]), coordinates=x, cell=None, pbc=None)
    >>> water.properties = {"energies": torch.tensor([-76.4]), "forces": torch.zeros(1, 3, 3)}
    >>> task.training_step(water, 0).requires_grad
    True
    """

    _weights: Tensor
    _learned_weights: Tensor

    def __init__(
        self,
        potential: Potential,
        outputs: Sequence[ModelOutput],
        optimizer: OptimizerSettings | Callable[[Potential], torch.optim.Optimizer] | None = None,
        schedule: ScheduleSettings | Callable[[torch.optim.Optimizer], Mapping[str, Any]] | None = None,
        *,
        loss_unit: str = "kcal/mol",
        error_unit: str = "kcal/mol",
        energies: Callable[[Potential, BatchLike], Tensor] | None = None,
    ) -> None:
        super().__init__()
        names = [output.property for output in outputs]
        if not any(output.weight > 0 for output in outputs) or len(set(names)) < len(names):
            raise ValueError(f"expected outputs of different names, one at least with a weight above 0, got {names}")
        self.potential = potential
        self.outputs = tuple(outputs)
        self.optimizer_settings = OptimizerSettings() if optimizer is None else optimizer
        self.schedule_settings = schedule
        self.loss_unit, self.error_unit = loss_unit, error_unit
        self.stop_below: float | None = None
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] = {}
        self._energies = energies
        self._learned = [output for output in outputs if output.weight > 0]
        self._trained = {output.predicted for output in self._learned}
        self._known = {output.predicted for output in outputs}
        _freeze_idle(potential, self._trained)
        self._factors = {output.property: output.factor(error_unit) for output in outputs}
        for name, some in (("_weights", self.outputs), ("_learned_weights", self._learned)):
            values = torch.tensor([output.weight for output in some], dtype=torch.float64)
            self.register_buffer(name, values, persistent=False)
        self.val_terms = MeanTerms(len(self.outputs))
        self.val_errors = error_metrics(self.outputs)
        #: The loss of the last step, and the sum over steps of this epoch.
        self.last_loss: Tensor | None = None
        self._epoch_loss, self._epoch_steps = torch.zeros((), dtype=torch.float64), 0

    def forward(self, batch: BatchLike) -> dict[str, Tensor]:
        """Return what the potential says about a batch, without a graph."""
        return predict(self.potential, batch, self._known, graph=False)

    def training_step(self, batch: BatchLike, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        with remembering():
            if isinstance(batch, Batch):
                batch.recall()
            return self._loss(batch)

    def _loss(self, batch: BatchLike) -> Tensor:
        if self._energies is not None and self._trained == {"energies"}:
            predictions = {"energies": self._energies(self.potential, batch)}
        else:
            predictions = predict(self.potential, batch, self._trained)
        terms = terms_of(self._learned, self.potential, predictions, batch, self.loss_unit)
        counts, world = over_processes(terms.counts)
        if not terms.sums.requires_grad:  # the last batch of an epoch has nothing for this process, but others wait
            terms = terms._replace(sums=terms.sums + 0 * sum(parameter.sum() for parameter in self.parameters()))
        # Lightning takes the mean of the gradients of all processes, hence the factor.
        loss = world * (self._learned_weights * terms.sums / counts.clamp(min=1)).sum()
        self.last_loss = loss.detach()
        self._epoch_loss = self._epoch_loss.to(loss.device) + self.last_loss
        self._epoch_steps += 1
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let elements that do not occur in a batch have gradients of zero, as they have in several processes."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Find the gradients of what is trained; where forces are, the graph leads to coordinates too, for nobody."""
        if not self._trained.isdisjoint(("forces", "stress")):
            kwargs.setdefault("inputs", [parameter for parameter in self.parameters() if parameter.requires_grad])
        super().backward(loss, *args, **kwargs)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write loss and learning rate to the logs now and then; stop where the loss is no number."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        gathering = (batch_idx + 1) % self.trainer.accumulate_grad_batches
        if self.global_step % every or gathering or self.last_loss is None:
            return
        total, world = over_processes(self.last_loss)
        loss = float(total) / world
        self._refuse_no_number("loss", loss)
        for logger in self.loggers:  # which count steps from 0
            logger.log_metrics({"loss": loss, "learning_rate": self.learning_rate}, step=self.global_step - 1)

    def _refuse_no_number(self, name: str, value: float) -> None:
        """End a training that cannot recover, before its weights are taken for the best or the last."""
        if not math.isfinite(value):
            raise RuntimeError(
                f"the {name} is {value} at step {self.global_step}: try a smaller learning rate or clipped gradients, "
                "and look for absurd labels with `anipot data check`"
            )

    @property
    def learning_rate(self) -> float:
        """The largest of all groups of parameters, which is the one that was asked for."""
        return max(group["lr"] / group.get("lr_scale", 1.0) for group in self.trainer.optimizers[0].param_groups)

    def on_train_epoch_end(self) -> None:
        """Report the mean loss of the epoch."""
        total, world = over_processes(self._epoch_loss)
        mean = total / (world * max(1, self._epoch_steps))
        self.log("train_loss", mean, logger=False, sync_dist=True)
        for logger in self.loggers:  # at once: what Lightning logs later would be missing after a kill in between
            logger.log_metrics({"train_loss": float(mean)}, step=self.global_step - 1)
        self._epoch_loss, self._epoch_steps = torch.zeros_like(self._epoch_loss), 0

    def validation_step(self, batch: BatchLike, batch_idx: int) -> None:
        """Add up losses and errors of a batch."""
        terms = terms_of(self.outputs, self.potential, self(batch), batch, self.loss_unit)
        self.val_terms.update(terms)
        update_errors(self.val_errors, self.outputs, terms.errors)

    def on_validation_epoch_end(self) -> None:
        """Report losses and errors."""
        parts = self.val_terms.compute().reshape(-1)
        learned = parts[self._weights > 0]
        loss = torch.nansum(self._learned_weights * learned)  # without what is not labelled
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            if bool(learned.isnan().all()):
                names = ", ".join(output.property for output in self._learned)
                raise ValueError(f"the validation data have no labels of {names}")
            self._refuse_no_number("loss of the validation", float(loss))
        self.log("val_loss", loss, sync_dist=True)
        for output, part in zip(self.outputs, parts, strict=True):
            self.log(f"val_{output.property}_loss", part, sync_dist=True)
        for name, value in means_of(self.val_errors).items():
            self.log(f"val_{name}", value * self._factors[name.rpartition("_")[0]], sync_dist=True)
        self.val_terms.reset()
        self.val_errors.reset()

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule as Lightning wants them."""
        make = self.optimizer_settings
        optimizer = make.build(self.potential) if isinstance(make, OptimizerSettings) else make(self.potential)
        plan = self.schedule_settings
        if plan is None:
            return optimizer
        if isinstance(plan, ScheduleSettings):
            self.stop_below = plan.stop_below
            if plan.kind == "plateau":
                # Lightning takes its step after the checkpoint at the end of an epoch, from which it would be missing.
                self._plateau = plan.plateau(optimizer)
                self._plateau.load_state_dict(self._plateau_state)
                return optimizer
            plan = plan.build
        return {"optimizer": optimizer, "lr_scheduler": dict(plan(optimizer))}

    def on_validation_end(self) -> None:
        """Let a plateau schedule see the validation."""
        if self._plateau is None or self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        assert isinstance(self.schedule_settings, ScheduleSettings)
        name, seen = self.schedule_settings.monitor, self.trainer.callback_metrics
        if name not in seen:
            known = ", ".join(key for key in seen if key.startswith("val_")) or "nothing"
            raise ValueError(f"the schedule follows {name!r}, but the validation gave {known}")
        self._plateau.step(float(seen[name]))
        self._stop_if_small()

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Take a step of the schedule, and end the training where the learning rate has become small enough."""
        super().lr_scheduler_step(scheduler, metric)
        self._stop_if_small()

    def _stop_if_small(self) -> None:
        if self.stop_below is not None and self.learning_rate < self.stop_below:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the plateau schedule, and the mean loss of an epoch that is not over."""
        total, world = over_processes(self._epoch_loss)
        checkpoint["epoch_so_far"] = (float(total) / world, self._epoch_steps)
        checkpoint["plateau"] = {} if self._plateau is None else self._plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with them."""
        total, steps = checkpoint.get("epoch_so_far", (0.0, 0))
        self._epoch_loss, self._epoch_steps = torch.tensor(total, dtype=torch.float64), steps
        self._plateau_state = checkpoint.get("plateau", {})
        if self._plateau is not None:
            self._plateau.load_state_dict(self._plateau_state)


def _freeze_idle(potential: Potential, trained: set[str]) -> None:
    """Freeze heads and terms that have no part in what is trained; an optimizer would let their weights decay."""
    members = list(potential) if isinstance(potential, EnsemblePotential) else [potential]
    for member in members:
        parts: list[nn.Module] = [member.representation]
        parts += [head for name, head in member.property_heads.items() if name in trained]
        if not trained.isdisjoint(OF_ENERGY):
            parts += [member.head, member.terms]
        busy = {id(parameter) for part in parts for parameter in part.parameters()}
        for parameter in member.parameters():
            if id(parameter) not in busy:
                parameter.requires_grad_(False)
