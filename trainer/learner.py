"""transformers' Trainer, with our loss, our evaluation and our checkpoints; the loop is Trainer's own."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState

from trainer import modelfolder
from trainer.cross_entropy import LEFT_OUT
from trainer.dataset import Rows, collate
from trainer.history import History
from trainer.orders import Orders
from trainer.spec import Spec
from trainer.tally import Tally, summed
from trainer.voice import Voice
from trainer.words import Entered

STATE = "trainer_state.json"


class Learner(Trainer):
    """Steps as Trainer does; `save` makes a checkpoint of the step that was just made."""

    model: Any
    eval_dataset: Any

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        rows: Rows,
        held_out: Rows | None,
        orders: Orders,
        tally: Tally,
        voice: Voice,
        save: Callable[["Learner"], None],
        callbacks: list[TrainerCallback],
    ) -> None:
        self.orders, self.tally, self.voice, self._save_as_ours = orders, tally, voice, save
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=held_out,
            data_collator=collate,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self._loss_shifts_labels = False  # the rows' labels are shifted already

    def get_batch_samples(self, *args: Any) -> tuple[list[dict[str, Any]], Any]:
        """The passes of a step, and how many labels all of them have on all processes."""
        passes, learned = super().get_batch_samples(*args)
        self.tally.begin_step(sum(one.pop("real") for one in passes), learned)
        return passes, learned

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Note the pass's loss and right answers on the way."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self.tally.add(loss.detach() / self.args.world_size, outputs["right"])
        return (loss, outputs) if return_outputs else loss

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """The norm before clipping; on a CPU gradients that need no clipping are not multiplied by one."""
        if self.args.device.type != "cpu":
            return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call,no-any-return]
        norm = _norm(model)
        if norm > self.args.max_grad_norm:
            clip_grads_with_norm_(model.parameters(), self.args.max_grad_norm, norm)
        return norm

    def _get_grad_norm(self, model: Any, grad_norm: Tensor | None = None) -> Tensor:
        if grad_norm is None:
            self.accelerator.unscale_gradients()
            grad_norm = _norm(model)
        self.tally.grad_norm = grad_norm
        return grad_norm

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss and the accuracy over all learned tokens held out; nothing once it was told to stop.

        Draws no random numbers. A stop leaves the evaluation to be done again.
        """
        self.voice.say(Entered(phase="evaluating"))
        self.model.eval()
        facts = torch.zeros(3, dtype=torch.float64)  # loss, right answers, learned tokens
        for batch in self._evaluation_batches():
            self.orders.hear()
            if self.orders.stopping:
                self.control.should_evaluate = False
                self.control.should_save = self.control.should_training_stop = True
                self.model.train()
                return {}
            if batch is not None:
                inputs = self._prepare_inputs(batch)
                learned = (inputs["labels"] != LEFT_OUT).sum()
                with self.accelerator.autocast():
                    out = self.model(**inputs)
                facts += torch.tensor([float(out["loss"]) * int(learned), int(out["right"]), int(learned)])
        loss, right, learned = summed(facts)
        metrics = {"valid_loss": loss / max(1, learned), "valid_mean_token_accuracy": right / max(1, learned)}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()
        self.voice.say(Entered(phase="training"))
        return metrics

    def _evaluation_batches(self) -> Iterator[dict[str, Any] | None]:
        """As many on every process; None where there is none left for this one."""
        size, world = self.args.per_device_eval_batch_size, self.args.world_size
        count = -(-len(self.eval_dataset) // size)
        for first in range(0, count, world):
            start = (first + self.args.process_index) * size
            rows = range(start, min(start + size, len(self.eval_dataset)))
            batch = collate([self.eval_dataset[index] for index in rows]) if rows else None
            if batch is not None:
                batch.pop("real")
            yield batch

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Trainer's own would leave a torn folder behind if it were killed."""
        self._save_as_ours(self)

    def write_state(self, folder: Path) -> None:
        """All that a resume needs beside the weights; the generators of every process, whatever its host."""
        generators = self._generators()
        if self.args.should_save:
            for name, state in generators.items():
                (folder / name).write_bytes(state)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self.state.save_to_json(str(folder / STATE))

    def _generators(self) -> dict[str, bytes]:
        """The files that Trainer would write, of all processes; complete in the first."""
        with tempfile.TemporaryDirectory() as folder:
            self._save_rng_state(folder)
            mine = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        if self.args.world_size == 1:
            return mine
        found: list[dict[str, bytes]] = [{}] * self.args.world_size
        distributed.all_gather_object(found, mine)
        return {name: state for each in found for name, state in each.items()}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        modelfolder.read(self.model, Path(resume_from_checkpoint))

    def remember(self, checkpoint: Path) -> None:
        """Take weights and step from a checkpoint without training on."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / STATE))


def _norm(model: Any) -> Tensor:
    return get_total_norm([one.grad for one in model.parameters() if one.grad is not None])


def barrier() -> None:
    """Wait for the other processes of the training."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


def arguments(spec: Spec, history: History) -> TrainingArguments:
    """What Trainer is told; when to evaluate, save and log is up to our callbacks."""
    chosen = history.chosen
    on_cpu = spec.device == "cpu"
    return TrainingArguments(
        output_dir=str(spec.folder),
        max_steps=history.total_steps,
        per_device_train_batch_size=chosen["batch_size"],
        per_device_eval_batch_size=chosen["batch_size"],
        gradient_accumulation_steps=chosen["gradient_accumulation_steps"],
        learning_rate=chosen["learning_rate"],
        weight_decay=chosen["weight_decay"],
        lr_scheduler_type=chosen["lr_scheduler_type"],
        warmup_steps=chosen["warmup_steps"],
        max_grad_norm=chosen["max_grad_norm"],
        bf16=chosen["precision"] == "bf16",
        fp16=chosen["precision"] == "fp16",
        use_cpu=on_cpu,
        optim="adamw_torch_fused",
        seed=spec.seed,
        data_seed=spec.seed,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
    )
