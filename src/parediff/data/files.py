"""Which image files a folder has; nothing heavy is needed to know."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from parediff.errors import RequestError


def image_files(root: Path) -> list[Path]:
    """Every image file below `root`, in a fixed order; hidden files and folders are none of ours.

    Links are followed within `root` only: a folder that was given away must not read what lies beside it.
    """
    Image.init()
    known = set(Image.registered_extensions())
    within = root.resolve()
    files = []
    for file in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in file.relative_to(root).parts):
            continue
        is_image = file.suffix.lower() in known
        if file.is_symlink() and (is_image or file.is_dir()):
            check_link(file, within)
        if is_image and file.is_file():
            files.append(file)
    if not files:
        raise RequestError("path", root, "a folder with image files in it or in its sub-folders; there are none")
    return files


def check_link(link: Path, within: Path) -> None:
    """Raise RequestError for a link that leads out of the folder `within`, or nowhere."""
    leads_to = Path(os.path.realpath(link))
    if not leads_to.is_relative_to(within):
        raise RequestError("path", link, f"files of the folder itself; this link leaves it, to {leads_to}")
    if not leads_to.exists():
        raise RequestError("path", link, "files of the folder itself; this link leads nowhere")
