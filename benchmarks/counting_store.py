"""An S3 server in this process that counts what is asked of it."""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

BUCKET = "counted"


@dataclass
class Counted:
    """Requests since `clear`, and the bytes of their answers."""

    kinds: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0

    @property
    def requests(self) -> int:
        return sum(self.kinds.values())

    def clear(self) -> None:
        self.kinds.clear()
        self.sent_bytes = 0


@contextmanager
def counting_s3() -> Iterator[tuple[str, Counted]]:
    """The URL of a bucket on an S3 server, and its counts; AWS_* in the environment lead there."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app, counted = DomainDispatcherApplication(create_backend_app), Counted()

    def counting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        counted.kinds[_kind(environ)] += 1
        answer: Iterable[bytes] = app(environ, start_response)
        for block in answer:
            counted.sent_bytes += len(block)
            yield block

    server = make_server("127.0.0.1", 0, counting, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    settings = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key", "DEFAULT_REGION": "us-east-1"}
    os.environ |= {f"AWS_{name}": value for name, value in settings.items()}
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    try:
        yield f"s3://{BUCKET}", counted
    finally:
        server.shutdown()


def _kind(environ: dict[str, Any]) -> str:
    is_listing = environ["REQUEST_METHOD"] == "GET" and "list-type" in environ.get("QUERY_STRING", "")
    return "list" if is_listing else str(environ["REQUEST_METHOD"]).lower()
