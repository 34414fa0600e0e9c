"""Where an extractor's weights come from: a path in the config, a library's own cache, or their origin at first use."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from parediff.errors import RequestError

SECONDS = 30  # without an answer


@dataclass(frozen=True)
class WeightsFile:
    """One published file. `digest` is the start of its SHA-256 where the publisher states one."""

    name: str
    origin: str
    digest: str = ""

    @property
    def cached(self) -> Path:
        """Where torch's hub keeps it."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name

    def locate(self, path: str | None) -> Path:
        """The file: `path` where given, else torch's cache, else fetched into it. RequestError says how to help."""
        if path is not None:
            given = Path(path).expanduser()
            if not given.is_file():
                raise RequestError("path", path, f"no such file; {self.name} from {self.origin} is wanted")
            return given
        if not self.cached.is_file():
            self._fetch()
        return self.cached

    def _fetch(self) -> None:
        partial = self.cached.with_name(f"{self.name}.{uuid.uuid4().hex}.part")
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(self.origin, timeout=SECONDS) as answer, partial.open("wb") as file:
                shutil.copyfileobj(answer, file)
            with partial.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if not digest.startswith(self.digest):
                raise OSError(f"its SHA-256 starts with {digest[:8]}, {self.digest} is expected")
            partial.replace(self.cached)
        except OSError as error:
            raise missing(self.name, self.origin, str(self.cached), error) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def missing(name: str, origin: str, cache: str, error: Exception) -> RequestError:
    """What to do about weights that are neither here nor can be fetched."""
    why = " ".join(str(error).split())[:160] or type(error).__name__
    accepted = f"{name} is neither in {cache} nor could it be fetched from {origin} ({why}); path=… names a local copy"
    return RequestError("path", "null", accepted)


def weights_fingerprint(network: nn.Module) -> str:
    """16 hex digits of SHA-256 over every tensor of a network, wherever it was read from."""
    content = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:16]
