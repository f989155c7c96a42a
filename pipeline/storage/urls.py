"""URLs as text: what they name, and what of them may be shown."""

import os
import re
from urllib.parse import urlsplit

USER = re.compile(r"//[^/\s]+@")
QUERY = re.compile(r"(?<=\w)\?[^\s'\"<>]*=[^\s'\"<>]*|(?<=://)([^\s'\"<>?]+)\?[^\s'\"<>]*")


def is_remote(url: str) -> bool:
    return "://" in url


def own_name(url: str) -> str:
    """The last part of a URL's path."""
    return url.partition("?")[0].rstrip("/").rpartition("/")[2]


def public_url(url: str) -> str:
    """The URL without user, password and query, which may hold secrets; a local path becomes absolute."""
    if not is_remote(url):
        return os.path.abspath(url)
    parts = urlsplit(url, allow_fragments=False)  # a # is part of an object's name
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def without_secrets(text: str) -> str:
    """A library's message without the users, passwords and queries of the URLs in it."""
    return QUERY.sub(r"\1", USER.sub("//", text))
