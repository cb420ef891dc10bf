"""RewardTrainer: fine-tune a denoiser's weights so that its samples earn more reward."""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ...solvers import Model, Plan
from ..objectives.objective import Objective, Policy
from ..rewards.asked import MeteredReward
from ..rewards.base import RewardFunction
from .adapter import reference_of
from .arguments import check_trainer
from .arithmetic import batch_arithmetic
from .average import Average
from .checkpoints import Checkpoints
from .config import TrainConfig
from .decline import Decline
from .evaluation import Evaluation, check_evaluations, evaluate
from .files import save_adapter, save_weights
from .interrupt import Interrupt
from .iteration import iterate
from .log import Log
from .preflight import Preflight, preflight
from .processes import Processes, processes
from .prompts import Prompts
from .resume import restore, restore_newest, save
from .run import TrainingRun
from .settings import settings
from .trained import Trained
from .undo import Pause, Stopped, undone_if_given_up


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
        ValueError: nothing to train, batch arithmetic without a solution, an end that no evaluation can bring
            about, what `objective.check` refuses.

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
        check_trainer(denoiser, plan, objective, reward, prompts, config)
        world = processes(accelerator)
        arithmetic = batch_arithmetic(
            config.samples, config.updates, config.limit, prompts.repeats, world.size
        )
        check_evaluations(config, plan, heldout or {}, world)
        trained = Trained(denoiser, config, world)
        base = reference_of(denoiser) if reference is None else reference  # after the weights have settled
        policy = Policy(config.precision.around(denoiser), plan, config.precision.around(base))
        objective.check(policy)
        watched = {name: MeteredReward(value, name, world.size) for name, value in (heldout or {}).items()}
        self.run = TrainingRun(
            config,
            world,
            arithmetic,
            policy,
            trained,
            objective,
            prompts,
            MeteredReward(reward, processes=world.size),
            watched,
            Decline(list(watched), config.patience),
            settings(
                config,
                objective,
                denoiser,
                plan,
                {"prompts": prompts, "evaluation": evaluation or prompts},
                {"reward": reward, **{f"heldout.{name}": value for name, value in (heldout or {}).items()}},
            ),
        )
        self.denoiser, self.evaluation = denoiser, evaluation or prompts
        self.saved: tuple[int, int] | None = None  # `done` and `assessed` of the newest checkpoint

    def check(self) -> Preflight:
        """Look before training: see `Preflight`. Weights, statistics and random numbers are left as they were."""
        found = preflight(self.run)
        if self.world.first:
            print(found)
        return found

    def train(self, resume: bool = False) -> End:
        """Train until config.iterations are done, or another `End`.

        Args:
            resume: continue from the newest whole checkpoint in config.out where there is one, exactly: the
                run is bit for bit (float32 on the CPU) the one that was never interrupted.

        Raises:
            FileExistsError: without `resume` a folder that holds checkpoints. RuntimeError: with it, one whose
                checkpoints are all damaged. OSError: a checkpoint or the log could not be written.
                FloatingPointError: see the class.

        Warns of damaged checkpoints that were passed over, and of settings that changed since.
        """
        held = self.checkpoints.folders()
        if held and not self.done:
            if not resume:
                raise FileExistsError(
                    f"out: got {held[-1]}, expected a folder without checkpoints; pass resume=True or another "
                    "folder"
                )
            restore_newest(self.run)
            self.saved = (self.done, self.run.assessed)
        log = self._open_log() if self.world.first else None
        try:
            with Interrupt(self.world) as interrupt:
                end = self._go_on(log, interrupt)
                if self.saved != (self.done, self.run.assessed):
                    self.save()
        except FloatingPointError as error:
            raise FloatingPointError(
                f"iteration {self.done}: {error}; the weights are those before this step, the latest whole "
                f"checkpoint is {self.checkpoints.latest()}"
            ) from error
        finally:
            if log is not None:
                log.close()
        return end

    def _go_on(self, log: Log | None, pause: Pause) -> End:
        """Iterations, evaluations and checkpoints until an end."""
        try:
            end = self._assess(log, pause)
            while end is None and self.done < self.config.iterations:
                pause.check()
                figures = iterate(self.run, pause)
                if log is not None:
                    log.write(self.done, "train", figures)
                    log.advance(reward=figures["reward"], loss=figures["loss"])
                pause.check()  # an evaluation left out here is made up for by whoever resumes
                end = self._assess(log, pause)
                if end is not None or self._due(self.config.checkpoint_every):
                    self.save()
        except Stopped:
            return End.INTERRUPT
        return end or End.ITERATIONS

    def evaluate(self) -> Evaluation:
        """Evaluate the averaged weights where there are some, else the trained ones.

        Raises:
            FloatingPointError: a reward is not finite, by name and sample, on all processes.
        """
        return self._evaluate(Pause())

    def _evaluate(self, pause: Pause) -> Evaluation:
        with self.run.trained.averaged(), undone_if_given_up(self.run):
            return evaluate(self.run, self.evaluation, pause)

    def export(self, path: Path | str) -> None:
        """Write what the evaluations see (averaged weights where there are some): a peft adapter folder, of a
        pipeline one that `pipe.load_lora_weights` reads, or for full fine-tuning a safetensors file of the whole
        network. All processes call it.
        """
        adapters = any(hasattr(network, "peft_config") for network in self.denoiser.networks())
        keep = save_adapter if adapters else save_weights
        with self.run.trained.averaged():
            keep(self.denoiser, path)

    def save(self) -> Path:
        """Write a checkpoint now; all processes call it."""
        path = save(self.run)
        self.saved = (self.done, self.run.assessed)
        return path

    def restore(self, path: Path) -> None:
        """Take everything back from the checkpoint at `path`; all processes call it.

        Raises:
            ValueError: it is damaged, or has other weights than these. Settings that changed since are warned of.
        """
        restore(self.run, path)
        self.saved = (self.done, self.run.assessed)

    def _due(self, every: int | None) -> bool:
        return every is not None and self.done % every == 0

    def _open_log(self) -> Log:
        config, run = self.config, self.run
        return Log(
            Path(config.out), run.done, run.assessed, config.iterations, config.tensorboard, config.progress
        )

    def _assess(self, log: Log | None, pause: Pause) -> End | None:
        """Evaluate where it is due and not done yet, and tell whether that ends the run."""
        if self.run.assessed == self.done or not self._due(self.config.evaluate_every):
            return None
        found = self._evaluate(pause)
        self.run.assessed = self.done
        if log is not None:
            log.write(self.done, "evaluation", found.figures)
            log.pictures(self.done, found.x, self.config.value_range)
        kl, most = found.figures["kl"], self.config.max_kl
        if kl is not None and most is not None and kl > most:
            return End.MAX_KL
        return End.DECLINE if self.decline.seen(found.figures) else None

    # the run's parts that its owner looks at

    @property
    def config(self) -> TrainConfig:
        return self.run.config

    @property
    def world(self) -> Processes:
        return self.run.world

    @property
    def objective(self) -> Objective:
        return self.run.objective

    @property
    def reward(self) -> MeteredReward:
        return self.run.reward

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trained parameters by name."""
        return self.run.trained.weights

    @property
    def optimizer(self) -> Optimizer:
        return self.run.trained.optimizer

    @property
    def average(self) -> Average | None:
        return self.run.trained.average

    @property
    def decline(self) -> Decline:
        return self.run.decline

    @property
    def checkpoints(self) -> Checkpoints:
        return self.run.checkpoints

    @property
    def done(self) -> int:
        """Iterations so far."""
        return self.run.done

    @done.setter
    def done(self, iterations: int) -> None:
        self.run.done = iterations

    @property
    def drawn(self) -> int:
        """Samples so far, over all processes."""
        return self.run.drawn
