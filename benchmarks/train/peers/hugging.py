"""What both peers' scripts share: both libraries train with a subclass of transformers' Trainer.

Everything that has a default and does not change the loss is left at it; the optimiser is the one that the Trainer
would make (AdamW, fused), the schedule is ours, passed in by the documented argument.
"""

from __future__ import annotations

import json
import sys
import tempfile

import torch
from datasets import Dataset
from gate import Gate, trained_parameters
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import TrainerCallback


def job():
    """The job of the file named on the command line, and the layout's folder in it."""
    with open(sys.argv[1], encoding="utf-8") as file:
        found = json.load(file)
    torch.set_num_threads(found["threads"])
    torch.manual_seed(found["seed"])
    return found


class Turns(TrainerCallback):
    """Tells the gate that a step is over."""

    def __init__(self, gate):
        self.gate = gate

    def on_step_end(self, args, state, control, **kwargs):
        self.gate.stepped()


def in_order(dataset, batch_size, drop_last, **_):
    """Batches in the file's order: the same as ours."""
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


def train(job, model, loss, trainer_class, arguments_class, collator=None, prompts=None):
    """Train as the job says, a turn at a time."""
    assert not any(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)), "dropout"
    gate = Gate()
    model.register_forward_pre_hook(gate.forward)
    register_optimizer_step_post_hook(gate.updated)
    # Of every step, exact, and without asking the trainer to log each.
    loss.register_forward_hook(lambda module, inputs, value: gate.losses.append(value.item()))
    columns = dict(zip(("query", "positive", "negative"), map(list, zip(*job["triples"], strict=True)), strict=True))
    optimizer = torch.optim.AdamW(model.parameters(), job["lr"], weight_decay=job["weight_decay"], fused=True)
    warm, steps = job["warmup_steps"], job["steps"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
    )
    with tempfile.TemporaryDirectory() as output:
        arguments = arguments_class(
            output_dir=output, max_steps=steps, per_device_train_batch_size=job["batch_size"],
            max_grad_norm=job["clip"], save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
            seed=job["seed"], batch_sampler=in_order, prompts=prompts,
        )  # fmt: skip
        trainer = trainer_class(
            model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss,
            optimizers=(optimizer, schedule), callbacks=[Turns(gate)], data_collator=collator,
        )  # fmt: skip
        gate.ready(parameters=trained_parameters(model))
        trainer.train()
