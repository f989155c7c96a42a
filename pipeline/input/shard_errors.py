"""What storage and readers raise while a shard is read becomes a ShardError that names the shard."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ShardError, UserError
from pipeline.storage.urls import public_url


@contextmanager
def shard_errors(url: str, *damage: type[Exception]) -> Iterator[None]:
    """Raises ShardError where the file is missing, is a folder, or one of `damage` is raised inside.

    A UserError passes as it is, although it is a ValueError: it says what is wrong with the installation or the
    configuration, not with the shard.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise ShardError(f"{public_url(url)} does not exist") from None
    except IsADirectoryError:
        raise ShardError(f"{public_url(url)} is a folder") from None
    except damage as error:
        raise ShardError(f"{public_url(url)}: {error}") from error
