"""Where a run computes: one process, DDP or FSDP, under whichever launcher started it.

`trainer.devices` and `trainer.nodes` describe a run that colbertxm starts itself; torchrun and srun have started theirs
already, and their numbers count.
"""

from __future__ import annotations

import copy
import hashlib
import os
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy

from colbertxm.data.examples import Examples, InMemory
from colbertxm.errors import UserError, nearest
from colbertxm.model.encoder import Encoder
from colbertxm.model.xmod import Layer
from colbertxm.ranks import World, world

if TYPE_CHECKING:
    from colbertxm.training.fit import TrainerSettings

STRATEGIES = ("auto", "ddp", "fsdp")


def place(settings: TrainerSettings, encoder: Encoder) -> tuple[dict[str, Any], list[ClusterEnvironment]]:
    """Arguments of Lightning's Trainer, and its plugins, for `settings` and this process's launcher. Raises UserError
    for what does not go together."""
    here = world()
    devices, nodes = settings.devices, settings.nodes
    if here.launcher != "none":
        _check_counts(here, settings)
        devices, nodes = here.local, here.nodes
    several = devices != 1 or nodes > 1
    strategy = _strategy(settings, encoder, several)
    if settings.accelerator == "cpu" and settings.precision.startswith("16"):
        raise UserError(f"trainer.precision={settings.precision} needs a GPU: on the CPU take bf16-mixed or 32-true")
    arguments = {
        "accelerator": settings.accelerator,
        "devices": devices,
        "num_nodes": nodes,
        "precision": settings.precision,
        "strategy": strategy,
    }
    return arguments, _environment(here) if several or "SLURM_NTASKS" in os.environ else []


def make_trainer(**arguments: Any) -> L.Trainer:
    """Lightning's Trainer; what it refuses (a GPU that is not there, an unknown precision) as a UserError."""
    try:
        return L.Trainer(**arguments)
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def adapters_vary(encoder: Encoder) -> bool:
    """Whether a batch may leave trained parameters without gradient: adapters of several languages are trained, and a
    batch has texts of some. DDP must then look which ones took part; elsewhere it need not."""
    modules = {
        name.split(".adapter_modules.")[1].split(".")[0]
        for name, parameter in encoder.named_parameters()
        if parameter.requires_grad and ".adapter_modules." in name
    }
    return len(modules) > 1


def _check_counts(here: World, settings: TrainerSettings) -> None:
    for name, asked, found in (("devices", settings.devices, here.local), ("nodes", settings.nodes, here.nodes)):
        if asked not in (1, found):
            raise UserError(
                f"trainer.{name}={asked}, but {here.launcher} started {here.size} processes on {here.nodes} machines: "
                f"leave trainer.{name} out, or make both say the same"
            )


def _environment(here: World) -> list[ClusterEnvironment]:
    if here.launcher == "torchrun":
        return [TorchElasticEnvironment()]
    if here.launcher == "slurm":
        # Without Lightning's requeueing, which saves wherever a signal finds the program; see signals.py.
        try:
            return [SLURMEnvironment(auto_requeue=False)]
        except RuntimeError as error:  # --ntasks without --ntasks-per-node
            raise UserError(f"Slurm: {error}") from None
    # In a Slurm job, but not under srun: Lightning would take the one process for a rank of many.
    return [LightningEnvironment()] if here.launcher == "colbertxm" or "SLURM_NTASKS" in os.environ else []


def _strategy(settings: TrainerSettings, encoder: Encoder, several: bool) -> Strategy | str:
    name = settings.strategy
    if name not in STRATEGIES:
        raise UserError(f"trainer.strategy={name!r} is unknown{nearest(name, STRATEGIES)}: choose auto, ddp or fsdp")
    if name == "fsdp":
        if settings.accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
            raise UserError("trainer.strategy=fsdp shards a model over CUDA GPUs, and there is none: take ddp or auto")
        # Every rank starts from rank 0's weights, as DDP does of itself. A layer is a unit: it is gathered whole.
        return FSDPStrategy(auto_wrap_policy={Layer}, state_dict_type="full", sync_module_states=True)
    if name == "ddp" or several:
        return DDPStrategy(find_unused_parameters=adapters_vary(encoder))
    return "auto"


class SameStart(L.Callback):
    """Raises UserError on every rank where ranks would train different runs: other resume points, or other data."""

    def __init__(self, examples: Examples, negatives: int) -> None:
        self.examples, self.negatives = examples, negatives

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Compare the step to start from and the examples' digest over all ranks."""
        if trainer.world_size == 1:
            return
        own = (trainer.global_step, digest(self.examples, self.negatives))
        found: list[Any] = [None] * trainer.world_size
        dist.all_gather_object(found, own)
        steps, digests = {step for step, _ in found}, {name for _, name in found}
        if len(steps) > 1:
            raise UserError(
                f"ranks resume from steps {sorted(steps)}: output= must be on a disk that all machines share"
            )
        if len(digests) > 1:
            raise UserError(
                "ranks prepared different training examples: give all machines the same data, library versions and "
                "number of threads (OMP_NUM_THREADS)"
            )


def digest(examples: Examples, negatives: int, sample: int = 1000) -> str:
    """The sha256 of all triples' ids in memory, or of a sample of those on disk."""
    size = len(examples)
    triples = (
        examples.triples
        if isinstance(examples, InMemory)
        else examples.read([(0, i * size // min(size, sample)) for i in range(min(size, sample))], negatives)
    )
    found = hashlib.sha256(str(size).encode())
    for triple in triples:
        found.update(repr((triple.query.id, triple.positive.id, [text.id for text in triple.negatives])).encode())
    return found.hexdigest()


class Whole(L.Callback):
    """Under FSDP the encoder's parameters are shards. A copy that was made before takes all of them when training ends,
    on rank 0, to be saved as a model; elsewhere the encoder itself is whole."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._copy: Encoder | None = None

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Copy before the strategy wraps and shards."""
        if isinstance(trainer.strategy, FSDPStrategy) and trainer.is_global_zero:
            self._copy = copy.deepcopy(self.encoder)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Gather; all ranks take part."""
        if isinstance(trainer.strategy, FSDPStrategy):
            state = trainer.strategy.lightning_module_state_dict()
            if self._copy is not None:
                names = {name: name.removeprefix("encoder.") for name in state}
                self._copy.load_state_dict({short: state[name] for name, short in names.items()})

    @property
    def trained(self) -> Encoder:
        """The encoder to save."""
        return self.encoder if self._copy is None else self._copy
