"""A training from its specification to its result: plans, learns, publishes."""

import hashlib
import json
import shutil
from collections.abc import Callable
from importlib import metadata
from typing import Any, TypeVar

import torch
from torch import distributed

from jobs import plan
from jobs.errors import DiskFull, JobError
from jobs.finetune_input import FinetuneInput
from trainer import checkpoint, curve, foundation, modelfolder, precision, sampling
from trainer.callbacks.course import Course
from trainer.callbacks.examiner import Examiner
from trainer.callbacks.meter import Meter
from trainer.history import History
from trainer.learner import Learner, arguments, barrier
from trainer.materials import Materials, gather
from trainer.orders import Orders
from trainer.place import Place
from trainer.saver import Saver, metrics_of
from trainer.spec import ASIDE, RESULT, STOP, Spec
from trainer.tally import Tally
from trainer.voice import Voice
from trainer.words import Chosen, Done, Entered, Forgotten, Said, Stopped

_PACKAGES = ("torch", "transformers", "accelerate", "peft", "tokenizers", "numpy")

Made = TypeVar("Made")


class StoppedEarly(Exception):
    """It was told to stop before it made a step."""


class Session:
    """One attempt, as each of its processes goes through it."""

    def __init__(self, spec: Spec, voice: Voice, place: Place) -> None:
        self._spec, self._voice, self._place = spec, voice, place
        self._orders = Orders(spec.folder, spec.save_seconds)

    def run(self) -> None:
        """Train to the end or until a stop, and say how it ended. Raises JobError."""
        self._voice.say(Entered(phase="loading"))
        resumed = None if self._spec.resume is None else History.read(self._spec.resume)
        try:
            self._tidy(0 if resumed is None else resumed.step)
            materials = self._agreed(self._gather)
            history = resumed or self._history(materials)
            self._warn(history, materials)
            self._check_disk(materials)
            self._train(materials, history)
        except StoppedEarly:
            self._voice.say(Stopped(step=0 if resumed is None else resumed.step))

    def _train(self, materials: Materials, history: History) -> None:
        spec, voice, orders = self._spec, self._voice, self._orders
        model = foundation.build(spec, materials.foundation, history.chosen["precision"])
        tally = Tally()
        meter = Meter(history, tally, voice, waits=spec.device != "cpu")
        saver = Saver(spec, materials.foundation, history, meter, orders, voice)
        examiner = Examiner(history, voice, lambda step: self._sample(learner, materials, step))
        learner = Learner(
            model,
            arguments(spec, history),
            materials.rows,
            materials.held_out,
            orders,
            tally,
            voice,
            saver.save,
            [meter, examiner, Course(history, meter, orders, materials.held_out is not None)],
        )
        self._say_chosen(history, materials, model)
        self._hear()
        self._learn(learner, history, saver)
        if orders.stopping:
            voice.say(Stopped(step=history.step))
        else:
            self._publish(history, materials, model)

    def _learn(self, learner: Learner, history: History, saver: Saver) -> None:
        """Step until the end or a stop. What the attempt before owed comes first."""
        resume = self._spec.resume
        if history.owes_evaluation:
            assert resume is not None
            learner.remember(resume)
            if learner.evaluate() and history.judge_saved(history.step):
                saver.tell(is_best=True)
        if not (history.finished or self._orders.stopping):
            self._voice.say(Entered(phase="training"))
            learner.train(resume_from_checkpoint=None if resume is None else str(resume))

    def _publish(self, history: History, materials: Materials, model: Any) -> None:
        self._voice.say(Entered(phase="publishing"))
        if not self._place.speaks:
            return
        job, aside = self._spec.folder, self._spec.folder / f"{ASIDE}{self._spec.attempt}"
        is_best = history.chosen["load_best_model_at_end"] and history.best_step is not None
        step = history.best_step if is_best else history.step
        modelfolder.copy_parts(checkpoint.folder_of(job, step or 0), aside)
        shutil.rmtree(job / RESULT, ignore_errors=True)
        aside.rename(job / RESULT)
        curve.write_table(history.rows, job)
        curve.draw(history.rows, job)
        config = materials.foundation.config
        last: dict[str, Any] = {}
        for row in history.rows:
            last |= row
        self._voice.say(
            Done(
                steps=history.step,
                trained_tokens=history.trained_tokens,
                parameters=materials.foundation.shape.parameters,
                context=config.n_positions,
                vocab_size=config.vocab_size,
                eos_token_id=materials.foundation.eos_token_id,
                is_adapter=(job / RESULT / modelfolder.ADAPTER_CONFIG).exists(),
                metrics=metrics_of(last),
            )
        )

    def _history(self, materials: Materials) -> History:
        """Of a training that begins: everything decided."""
        spec, base, rows = self._spec, materials.foundation, materials.rows
        corpus = plan.Corpus(materials.examples, rows.tokens, len(rows))
        asked = precision.chosen(spec.hyperparameters.precision, spec.device)
        decided = plan.decide(self._work(), base.shape, corpus, asked, self._place.processes)
        return History(
            chosen=json.loads(json.dumps(decided.hyperparameters)),
            total_steps=decided.total_steps,
            steps_per_epoch=decided.steps_per_epoch,
            config=self._config_key(),
            data=materials.key,
            processes=self._place.processes,
            versions=_versions(),
        )

    def _warn(self, history: History, materials: Materials) -> None:
        """Say what keeps a resumed training from being the one that was interrupted."""
        differs = {
            "specification": history.config != self._config_key(),
            "data": history.data != materials.key,
            "number of processes": history.processes != self._place.processes,
            "versions of its libraries": history.versions != _versions(),
        }
        if found := [what for what, is_so in differs.items() if is_so]:
            said = (
                f"The training goes on from step {history.step:,} with another {' and another '.join(found)}:"
            )
            self._voice.say(
                Said(level="warn", message=f"{said} its numbers are not those of an undisturbed run.")
            )

    def _work(self) -> FinetuneInput:
        spec = self._spec
        return FinetuneInput(
            training_file=spec.training.filename,
            seed=spec.seed,
            adapter=spec.adapter,
            init=spec.init,
            architecture=spec.architecture,
            hyperparameters=spec.hyperparameters,
        )

    def _config_key(self) -> str:
        facts = self._spec.model_dump_json(
            include={"init", "architecture", "adapter", "seed", "hyperparameters", "base_name"}
        )
        return hashlib.sha256(facts.encode()).hexdigest()

    def _check_disk(self, materials: Materials) -> None:
        """Raises DiskFull where the checkpoints would not fit."""
        shape, asked = materials.foundation.shape, self._spec.hyperparameters
        # those that are kept, the best, the one that is being made, and the result
        needed = plan.checkpoint_bytes(shape, self._work()) * (asked.save_total_limit + 2)
        needed += 4 * shape.parameters if self._spec.adapter == "full" else 0
        there = sum(path.stat().st_size for path in self._spec.folder.glob("checkpoint-*/*"))
        free = shutil.disk_usage(self._spec.folder).free + there
        if free < needed:
            raise DiskFull(
                f"The checkpoints need about {needed / 1e9:,.1f} GB, but the trainer's disk has"
                f" {free / 1e9:,.1f} GB free. Lower 'save_total_limit', train an adapter, or make room."
            )

    def _say_chosen(self, history: History, materials: Materials, model: Any) -> None:
        self._voice.say(
            Chosen(
                hyperparameters=history.chosen,
                total_steps=history.total_steps,
                parameters=materials.foundation.shape.parameters,
                trainable=sum(one.numel() for one in model.parameters() if one.requires_grad),
                examples=materials.examples,
                tokens=materials.rows.tokens,
            )
        )
        if cut := materials.rows.corpus.facts.cut:
            self._voice.say(
                Said(
                    level="warn",
                    message=f"{cut:,} examples are longer than the block: the beginnings of their prompts are"
                    " cut off. A larger 'block_size' keeps more.",
                )
            )

    def _sample(self, learner: Learner, materials: Materials, step: int) -> str:
        assert materials.held_out is not None
        base = materials.foundation
        prompt = sampling.prompt_of(materials.held_out)
        with learner.accelerator.autocast():
            tokens = sampling.continued(learner.model, prompt, base.eos_token_id, base.config.n_positions)
        return sampling.sentence(base.tokenizer, step, prompt, tokens)

    def _tidy(self, step: int) -> None:
        """Remove what was cut short, and checkpoints after the one that this attempt goes on from."""
        if self._place.leads:
            checkpoint.sweep(self._spec.folder)
            for newer in checkpoint.steps(self._spec.folder):
                if newer > step:
                    checkpoint.remove(self._spec.folder, newer)
                    self._voice.say(Forgotten(step=newer))
        barrier()

    def _gather(self) -> Materials:
        """Also what `build` finds made."""
        if self._spec.base_adapter is not None and self._spec.adapter != "full":
            foundation.merged(self._spec)
        return gather(self._spec, self._go_on)

    def _agreed(self, work: Callable[[], Made]) -> Made:
        """Do what leaves files behind first in one process of each host, then in the others, which find them.

        Raises in all what it raised in the first of those.
        """
        failure: JobError | StoppedEarly | None = None
        made: Made | None = None
        if self._place.leads:
            try:
                made = work()
            except (JobError, StoppedEarly) as error:
                failure = error
        found = [failure]
        if self._place.processes > 1:
            found = [None] * self._place.processes
            distributed.all_gather_object(found, failure)
        for each in found:
            if each is not None:
                raise each
        return work() if made is None else made

    def _go_on(self) -> None:
        """In the process that hears of stops. Raises StoppedEarly."""
        if self._place.speaks and (self._spec.folder / STOP).exists():
            raise StoppedEarly

    def _hear(self) -> None:
        """Where all processes are. Raises StoppedEarly."""
        self._orders.hear()
        if self._orders.stopping:
            raise StoppedEarly


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES} | {"cuda": str(torch.version.cuda)}
