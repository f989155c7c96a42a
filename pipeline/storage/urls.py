"""URLs as text: what they name, and what of them may be shown."""

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from pipeline.errors import UserError

VARIABLE = re.compile(r"\$\{([^}]*)\}")
HOME = re.compile(r"(@|(?:file|local)://)?(~[^/]*)(?=/|$)")
USER = re.compile(r"//[^/\s]+@")
QUERY = re.compile(r"(?<=\w)\?[^\s'\"<>]*=[^\s'\"<>]*|(?<=://)([^\s'\"<>?]+)\?[^\s'\"<>]*")


def expanded(path: str, environment: Mapping[str, str] = os.environ) -> str:
    """A path or URL as the user means it: `~` is the home folder, `${VAR}` a variable of the environment.

    Raises:
        UserError: a variable is not set, or there is no such home.
    """

    def value(match: re.Match[str]) -> str:
        if not environment.get(match[1]):
            raise UserError(f"{path!r} uses ${{{match[1]}}}, which is not set: set it, or write the path without it")
        return environment[match[1]]

    text = VARIABLE.sub(value, path)
    if (match := HOME.match(text)) is None:
        return text
    home = environment.get("HOME") if match[2] == "~" else None
    home = home or os.path.expanduser(match[2])
    if home.startswith("~"):
        raise UserError(f"{path!r}: there is no home folder {match[2]}; write ./{match[2]} for a file of that name")
    return f"{match[1] or ''}{home}{text[match.end() :]}"


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
