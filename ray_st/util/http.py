"""Downloading a file."""

from __future__ import annotations

from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, BinaryIO
from urllib import request
from urllib.parse import urlsplit

from tqdm import tqdm

from ray_st.util.atomic import replacing

_CHUNK = 1 << 20
_SILENCE = 60  # seconds without data after which the download fails


def http_get(url: str, path: str | Path) -> None:
    """Downloads a file, with a progress bar.

    The file gets its final name only when it is complete; until then its name ends with ``.part``.

    Args:
        url: A URL that starts with ``http://`` or ``https://``. Redirects are followed, but from https only
            to https.
        path: The file to write; its folder is created if missing, and an existing file is replaced.

    Raises:
        ValueError: If the URL has another scheme.
        OSError: If the server cannot be reached, returns an error or closes the connection early, or the file
            cannot be written.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise ValueError(f"http_get needs an address that starts with http:// or https://; got {url!r}.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            replacing(path) as part,
            _opener().open(url, timeout=_SILENCE) as response,
            part.open("wb") as file,
        ):
            _copy(response, file, path.name)
    except (OSError, HTTPException) as error:
        raise OSError(f"{url} was not downloaded to {path}: {error}") from error


def _copy(response: HTTPResponse, file: BinaryIO, name: str) -> None:
    length = response.headers.get("Content-Length")
    total = None if length is None else int(length)
    with tqdm(total=total, unit="B", unit_scale=True, desc=name, leave=False) as bar:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and file.tell() != total:
        raise OSError(f"it ended after {file.tell()} of {total} bytes")


class Redirections(request.HTTPRedirectHandler):
    """Follows redirects, except those from https to http."""

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        """The next request; see :meth:`urllib.request.HTTPRedirectHandler.redirect_request`."""
        if urlsplit(newurl).scheme not in {"https", req.type}:
            raise OSError(f"it is redirected to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """An opener that does not handle ``file:`` or FTP URLs."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        Redirections(),
    ):
        opener.add_handler(handler)
    return opener
