"""An S3 server in this process, which can be made to take long for every file."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

BUCKET = "latentmill"


@contextmanager
def s3_server(put_seconds: float = 0.0) -> Iterator[str]:
    """The URL of a bucket on a server that takes so long for each PUT; AWS_* in the environment lead there."""
    import boto3  # type: ignore[import-untyped]
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = DomainDispatcherApplication(create_backend_app)

    def late(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT" and is_slow.is_set():
            time.sleep(put_seconds)
        answer: Iterable[bytes] = app(environ, start_response)
        return answer

    is_slow, server = threading.Event(), make_server("127.0.0.1", 0, late, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {"ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "ACCESS_KEY_ID": "id"}
    settings |= {"SECRET_ACCESS_KEY": "key", "DEFAULT_REGION": "us-east-1"}
    os.environ |= {f"AWS_{name}": value for name, value in settings.items()}
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    is_slow.set()
    try:
        yield f"s3://{BUCKET}"
    finally:
        server.shutdown()
        server.server_close()
