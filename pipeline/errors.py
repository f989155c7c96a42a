"""The exceptions of the pipeline, and what each one means for a run.

Commands turn them into exit codes, tasks into rejects or retries.

    LatentmillError
    ├── UserError (also a ValueError)   the user's input is wrong: one or two lines, exit code 2
    │   ├── ConfigError                 a key or value of the configuration
    │   └── RunMismatchError            the output root belongs to another configuration
    ├── SampleError                     one sample can never give a latent: a counted reject, the run goes on
    ├── ShardError                      a shard cannot be read whole, or its parts contradict each other
    └── TransientError                  may pass when tried again: storage, a dead process, memory
        └── HeadLostError               Ray's head is gone: the run ends, and goes on when it is started again
"""

from dataclasses import dataclass

REMOVE_STAGE = "remove"  # of rows that were taken out of a finished run
FILTER_STAGE = "filter"  # of samples that were left out on purpose


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a sample, or a clip of it, gave no latent.

    `stage` is where it failed: `read | filter | probe | clip | decode | encode | write`. `reason` is a short snake_case
    word that reports count, `detail` one line for the person who looks into it.
    """

    stage: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    @property
    def code(self) -> str:
        """What reports count it under."""
        return f"{self.stage}/{self.reason}"


class LatentmillError(Exception):
    """Root of every exception that Latentmill raises on purpose."""


class UserError(LatentmillError, ValueError):
    """Something the user gave is wrong; the message says what came, what is allowed and what to do."""


class ConfigError(UserError):
    """A key or a value of the configuration is wrong."""


class RunMismatchError(UserError):
    """The output root belongs to a run whose configuration gives other latents."""


class SampleError(LatentmillError):
    """A sample, or one clip of it, can never give a latent.

    Its arguments are those of the `Reason` that it carries.
    """

    def __init__(self, stage: str, reason: str, detail: str) -> None:
        super().__init__(stage, reason, detail)
        self.why = Reason(stage, reason, detail)

    def __str__(self) -> str:
        return str(self.why)


class ShardError(LatentmillError):
    """A shard cannot be read to its end, or has changed since its parts were written."""


class TransientError(LatentmillError):
    """The same work may succeed when it is tried again."""


class RetiredError(TransientError):
    """The run is over, and what a replica would still write is not wanted any more."""


class HeadLostError(TransientError):
    """Ray's head does not answer any more, so nothing may be asked of Ray: it would wait for a minute and abort."""
