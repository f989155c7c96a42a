"""Storage on which a writer dies."""

from collections.abc import Callable

from pipeline.storage.store import Store


class KilledError(BaseException):
    """Stands for the death of the process."""


class MortalStore(Store):
    """Dies before or after the n-th creation, as a process killed there would."""

    def __init__(self, root: str, creations: int, after: bool) -> None:
        super().__init__(root)
        self.creations_left, self.after = creations, after

    def create(self, path: str, data: bytes) -> bool:
        return self._counted(lambda: super(MortalStore, self).create(path, data))

    def create_from(self, path: str, local_file: str) -> bool:
        return self._counted(lambda: super(MortalStore, self).create_from(path, local_file))

    def _counted(self, create: Callable[[], bool]) -> bool:
        self.creations_left -= 1
        if self.creations_left < 0 and not self.after:
            raise KilledError
        made = create()
        if self.creations_left < 0:
            raise KilledError
        return made
