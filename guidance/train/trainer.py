"""RewardTrainer: fine-tune a denoiser's weights so that its samples earn more reward."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...solvers import Model, Plan
from ..objectives.objective import Batch, Experience, LossTerm, Objective, Policy
from ..rewards.base import RewardFunction
from .adapter import Autocast, reference_of, save_adapter, save_weights, whole, within
from .checkpoints import Checkpoints
from .config import TrainConfig, batch_arithmetic
from .divergence import transitions_of
from .evaluation import NO_KL, Decline, Evaluation, evaluate
from .interrupt import Interrupt
from .log import Log
from .preflight import Preflight, preflight
from .processes import processes
from .prompts import Prompts, shared_generator
from .resume import restore, save
from .scored import Scored
from .tally import Tally
from .trained import Average, trainable


class End(Enum):
    """Why training ended."""

    ITERATIONS = "all iterations done"
    MAX_KL = "max_kl passed"
    DECLINE = "a held-out reward declined"
    INTERRUPT = "interrupted and saved"


class RewardTrainer:
    """Trains the parameters of `denoiser` that require grad; everything that random numbers decide follows
    from config.seed.

    One iteration: draw prompts and noise, `objective.rollout`, then `objective.updates`, each of whose losses
    is back-propagated on its own; gradients are averaged over processes once for an optimiser step.

    Args:
        denoiser: from `lora(...)`, or with a network that requires grad. Modes (train, eval) stay as they
            are; do not wrap it in DistributedDataParallel, since gradients are averaged here.
        plan: the sampler that is trained through.
        objective: the algorithm.
        reward: (samples, context) to (B,), larger is better.
        prompts: what is sampled.
        config: the numbers.
        reference: what the KL is taken to; default: adapters switched off, or a frozen copy where there are
            none.
        heldout: rewards that are only watched.
        evaluation: prompts of the evaluations; default `prompts`.
        accelerator: an `accelerate.Accelerator` of your own.

    Raises:
        ValueError: nothing to train, batch arithmetic without a solution, what `objective.check` refuses.

    `train` raises FloatingPointError where a reward, a loss or a gradient is not finite, naming it and the
    iteration, before the weights are touched.
    """

    def __init__(
        self,
        denoiser: Model,
        plan: Plan,
        objective: Objective,
        reward: RewardFunction,
        prompts: Prompts,
        config: TrainConfig,
        *,
        reference: Model | None = None,
        heldout: Mapping[str, RewardFunction] | None = None,
        evaluation: Prompts | None = None,
        accelerator: Any = None,
    ) -> None:
        self.denoiser, self.objective, self.prompts, self.config = denoiser, objective, prompts, config
        self.world = processes(accelerator)
        self.weights = trainable(denoiser)
        self.arithmetic = batch_arithmetic(
            config.samples, config.updates, config.limit, prompts.repeats, self.world.size
        )
        if config.evaluation_samples % self.world.size:
            raise ValueError(
                f"evaluation_samples: got {config.evaluation_samples}, expected a multiple of the "
                f"{self.world.size} processes"
            )
        self.sharded = any(hasattr(value, "device_mesh") for value in self.weights.values())
        if not self.sharded:
            for network in denoiser.networks():
                network.to(self.world.device)
            self.world.spread(value.data for value in self.weights.values())
        base = reference_of(denoiser) if reference is None else reference
        low = config.precision.value
        self.policy = (
            Policy(denoiser, plan, base)
            if low is None
            else Policy(
                within(denoiser, lambda inner: Autocast(inner, low)),
                plan,
                within(base, lambda inner: Autocast(inner, low)),
            )
        )
        objective.check(self.policy)
        if config.max_kl is not None and (config.evaluate_every is None or transitions_of(plan) is None):
            raise ValueError(
                f"max_kl: got {config.max_kl} with evaluate_every={config.evaluate_every} and {plan.name}, "
                f"expected evaluations and a path KL; {NO_KL}"
            )
        if config.patience is not None and (config.evaluate_every is None or not heldout):
            raise ValueError(
                f"patience: got {config.patience}, evaluate_every={config.evaluate_every} and "
                f"{len(heldout or {})} held-out rewards, expected evaluations and at least 1; pass "
                f"heldout={{name: reward}}"
            )
        self.reward = Scored(reward)
        self.heldout = {name: Scored(value, name) for name, value in (heldout or {}).items()}
        self.evaluation = evaluation or prompts
        self.optimizer = torch.optim.AdamW(
            list(self.weights.values()), config.lr, config.betas, weight_decay=config.weight_decay
        )
        self.average = None if config.ema is None else Average(self.weights, config.ema)
        self.decline = Decline(list(self.heldout), config.patience)
        self.checkpoints = Checkpoints(Path(config.out) / "checkpoints", config.keep, self.world)
        self.done = self.drawn = 0
        self.saved = -1  # the iteration of the newest checkpoint
        first = next(iter(self.weights.values()))
        self.like = torch.empty(0, dtype=first.dtype, device=self.world.device)

    def check(self) -> Preflight:
        """Look before training: see `Preflight`. Weights, statistics and random numbers are left as they were."""
        found = preflight(self)
        if self.world.first:
            print(found)
        return found

    def train(self, resume: bool = False) -> End:
        """Train until config.iterations are done, or another `End`.

        Args:
            resume: continue from the newest whole checkpoint in config.out where there is one, exactly: the
                run is bit for bit (float32 on the CPU) the one that was never interrupted.

        Raises:
            FileExistsError: without `resume` a folder that holds checkpoints. FloatingPointError: see the
                class.
        """
        latest = self.checkpoints.latest()
        if latest is not None and not resume and not self.done:
            raise FileExistsError(
                f"out: got {latest}, expected a folder without checkpoints; pass resume=True or another "
                "folder"
            )
        if latest is not None and not self.done:
            self.restore(latest)
        fresh = self.done == 0
        log = (
            Log(
                Path(self.config.out),
                -1 if fresh else self.done,
                self.config.iterations,
                self.config.tensorboard,
                self.config.progress,
            )
            if self.world.first
            else None
        )
        try:
            with Interrupt() as interrupt:
                end = self._assess(log) if fresh else None
                while end is None and self.done < self.config.iterations:
                    end = self._advance(log)
                    if self.world.any(interrupt.asked):
                        end = End.INTERRUPT
                    if end is not None or self.done % self.config.checkpoint_every == 0:
                        self.save()
                if self.saved != self.done:
                    self.save()
        except FloatingPointError as error:
            raise FloatingPointError(
                f"iteration {self.done}: {error}; the weights are those before this step, the latest whole "
                f"checkpoint is {self.checkpoints.latest()}"
            ) from error
        finally:
            if log is not None:
                log.close()
        return end or End.ITERATIONS

    def evaluate(self) -> Evaluation:
        """Evaluate the averaged weights where there are some, else the trained ones."""
        rewards = {"reward": self.reward, **self.heldout}
        with contextlib.nullcontext() if self.average is None else self.average.swapped():
            return evaluate(self.policy, self.evaluation, rewards, self.config, self.world, self.like)

    def export(self, path: Path | str) -> None:
        """Write what the evaluations see (averaged weights where there are some): a peft adapter folder, or
        for full fine-tuning a safetensors file of the whole network. All processes call it.
        """
        keep = save_adapter if hasattr(next(self.denoiser.networks()), "peft_config") else save_weights
        with contextlib.nullcontext() if self.average is None else self.average.swapped():
            keep(self.denoiser, path)

    def batches(self) -> list[list[Batch]]:
        """This process's batches of the coming iteration: for every update its pieces."""
        plan, how = self.policy.plan, self.arithmetic
        mine = range(self.world.rank * how.share, (self.world.rank + 1) * how.share)
        starts = [
            [self.drawn + (u * how.pieces + p) * how.piece for p in range(how.pieces)]
            for u in range(how.updates)
        ]
        return [
            [self.prompts.batch([low + k for k in mine], plan, self.config.seed, self.like) for low in row]
            for row in starts
        ]

    def _advance(self, log: Log | None) -> End | None:
        tally = Tally()
        batches = self.batches()
        experiences = [
            [self.objective.rollout(self.policy, batch, self.reward, self.world) for batch in row]
            for row in batches
        ]
        tally.rewards += [found.reward for row in experiences for found in row if found is not None]
        for update, (row, found) in enumerate(zip(batches, experiences, strict=True)):
            for step, losses in enumerate(self.steps(row, found, update)):
                self._backward(losses, tally)
                self._step(tally, first=self.done == update == step == 0)
        self.done += 1
        self.drawn += self.arithmetic.drawn
        figures = tally.mean(self.world) | {
            "samples": self.drawn,
            "reward_queries": self.reward.queries * self.world.size,
            "reward_seconds": self.reward.seconds,
        }
        if log is not None:
            log.write(self.done, "train", figures)
            log.advance(reward=figures["reward"], loss=figures["loss"])
        every = self.config.evaluate_every
        return self._assess(log) if every is not None and self.done % every == 0 else None

    def steps(
        self, batches: list[Batch], experiences: list[Experience | None], update: int
    ) -> Iterator[Iterator[LossTerm]]:
        """For each optimiser step the losses of all pieces. Choices are shared by the pieces as by the processes."""
        pieces = [
            self.objective.updates(
                self.policy,
                batch,
                experience,
                self.reward,
                self.world,
                shared_generator(self.config.seed, self.done, update),
            )
            for batch, experience in zip(batches, experiences, strict=True)
        ]
        for step in zip(*pieces, strict=True):
            yield (loss for losses in step for loss in losses)

    def _backward(self, losses: Iterator[LossTerm], tally: Tally) -> None:
        self.optimizer.zero_grad()
        for loss in losses:
            self.pull(loss)
            tally.add(loss)
            if not bool(torch.isfinite(loss.value.detach())):
                self.reward.trouble = self.reward.trouble or f"loss: {loss.value.item()}"

    def pull(self, loss: LossTerm) -> None:
        """Back-propagate one loss of one piece into the trained weights, and into nothing else."""
        if not loss.value.requires_grad or loss.value.ndim:
            raise ValueError(
                f"loss: got shape {tuple(loss.value.shape)}, requires_grad={loss.value.requires_grad}, "
                "expected a scalar with a graph; is the reward differentiable, and do the trained weights "
                "enter it?"
            )
        # the reward's own parameters collect nothing; sharded ones are no leaves of the graph
        (loss.value / self.arithmetic.pieces).backward(
            inputs=None if self.sharded else list(self.weights.values())
        )

    def average_gradients(self) -> None:
        """Each weight's gradient becomes the mean over processes, once for an optimiser step; sharded ones
        already are.
        """
        for value in self.weights.values():
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
        if not self.sharded:
            self.world.mean(value.grad for value in self.weights.values() if value.grad is not None)

    def _step(self, tally: Tally, first: bool) -> None:
        self.average_gradients()
        weights = list(self.weights.values())
        norm = torch.nn.utils.get_total_norm([value.grad for value in weights if value.grad is not None])
        self.stop_if_broken(whole(norm))  # before clipping spreads what is not finite
        tally.norms.append(float(whole(norm)))
        if self.config.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(weights, self.config.clip, norm)
        before = [value.detach().clone() for value in weights] if first else []
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        if first and all(
            torch.equal(whole(a), whole(b.detach())) for a, b in zip(before, weights, strict=True)
        ):
            warnings.warn(
                "the weights did not change in the first step: got gradients of 0; is the adapter active, "
                "and does the reward depend on what is trained?",
                stacklevel=4,
            )

    def stop_if_broken(self, norm: Tensor) -> None:
        """Raise FloatingPointError on every process if anything of this step is not finite on one of them."""
        said, self.reward.trouble = self.reward.trouble, None
        if self.world.any(said is not None or not bool(torch.isfinite(norm))):
            grads = {
                name: whole(value.grad) for name, value in self.weights.items() if value.grad is not None
            }
            bad = [f"gradient of {name}" for name, grad in grads.items() if not bool(grad.isfinite().all())]
            self.optimizer.zero_grad()
            raise FloatingPointError(f"not finite: {said or (*bad, 'a value on another process')[0]}")

    def _assess(self, log: Log | None) -> End | None:
        if self.config.evaluate_every is None:
            return None
        found = self.evaluate()
        if log is not None:
            log.write(self.done, "evaluation", found.figures)
            log.pictures(self.done, found.x, self.config.value_range)
        kl, most = found.figures["kl"], self.config.max_kl
        if kl is not None and most is not None and kl > most:
            return End.MAX_KL
        return End.DECLINE if self.decline.seen(found.figures) else None

    def save(self) -> Path:
        """Write a checkpoint now; all processes call it."""
        self.saved = self.done
        return save(self)

    def restore(self, path: Path) -> None:
        """Take everything back from the checkpoint at `path`; all processes call it.

        Raises:
            ValueError: it has other weights than these. Settings that changed since are warned of.
        """
        restore(self, path)
        self.saved = self.done

    def scored(self) -> list[Scored]:
        """Every reward."""
        return [self.reward, *self.heldout.values()]
