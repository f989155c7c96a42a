"""A whole run for a benchmark, stopped by signals as `run` is.

It does not measure: its caller listens to events.
"""

from collections.abc import Callable
from pathlib import Path

from jobs.signals import DeferredSignals, stoppable
from pipeline.config.load import Config
from pipeline.errors import UserError
from pipeline.monitor.events import Event

CONFIG = Path(__file__).parents[2] / "configs" / "bench.yaml"


def finish(config: Config, out: str, on_event: Callable[[Event], None], on_check: Callable[[], None]) -> None:
    """Makes every shard of `config` below `out`; `on_check` is called several times a second.

    Raises:
        UserError: shards are left.
    """
    from pipeline.run import execute, prepare  # torch and Ray take seconds to import: only a run pays

    signals = DeferredSignals()

    def check() -> None:
        signals.check()
        on_check()

    config = config.replaced({"output.path": out})
    with stoppable():  # what runs next is to be stopped as before
        outcome = execute(prepare(config), lambda *_: signals.take(), on_event, check)
    signals.check()
    if outcome.left:
        raise UserError(f"the run could not make all shards: {outcome.failed}")
