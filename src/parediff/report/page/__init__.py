"""The page itself: HTML, style, scripts and the libraries that it stands on, as a folder of files or as one file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

LIBRARIES = ("uPlot.iife.min.js", "Sortable.min.js", "slick.core.js", "slick.interactions.js", "slick.grid.js")
STYLES = ("uPlot.min.css", "slick.grid.css")
SCRIPTS = (
    "start.js",
    "format.js",
    "store.js",
    "contrast.js",
    "fronts.js",
    "address.js",
    "pens.js",
    "chart.js",
    "table.js",
    "filters.js",
    "drawings.js",
    "details.js",
    "compare.js",
    "export.js",
    "main.js",
)
OWN_STYLE = "page.css"


def assets() -> dict[str, str]:
    """Every file that the page loads, by name: libraries first, in the order in which they are loaded."""
    library = {name: _read(f"vendor/{name}") for name in (*STYLES, *LIBRARIES)}
    return library | {name: _read(name) for name in (OWN_STYLE, *SCRIPTS)}


def single(title: str, scripts: Sequence[str]) -> str:
    """One file; it may load nothing from anywhere."""
    own = assets()
    style = "".join(f"<style>{own[name]}</style>\n" for name in (*STYLES, OWN_STYLE))
    code = "".join(f"<script>{_inside(own[name])}</script>\n" for name in (*LIBRARIES, *SCRIPTS))
    told = "".join(f"<script>{script}</script>\n" for script in scripts)
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
    return _document(title, policy, style, code + told)


def linked(title: str, manifest: str = "data/manifest.js") -> str:
    """The HTML that loads its assets from beside it."""
    style = "".join(f'<link rel="stylesheet" href="assets/{name}">\n' for name in (*STYLES, OWN_STYLE))
    code = "".join(f'<script src="assets/{name}"></script>\n' for name in (*LIBRARIES, *SCRIPTS))
    policy = "object-src 'none'; base-uri 'none'; form-action 'none'; frame-src 'none'"
    return _document(title, policy, style, f'{code}<script src="{manifest}"></script>\n')


def put(folder: Path, title: str) -> None:
    """index.html and assets/ in a folder, with the libraries' licences."""
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    for name, text in (assets() | {"LICENSES.txt": _read("vendor/LICENSES.txt")}).items():
        path = folder / "assets" / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    (folder / "index.html").write_text(linked(title), encoding="utf-8")


def _document(title: str, policy: str, style: str, code: str) -> str:
    """The page's HTML with its four places filled at once: no content is taken for a place."""
    content = {"title": escape(title), "policy": policy, "style": style, "code": code}
    return re.sub(r"\{\{(\w+)\}\}", lambda place: content[place[1]], _read("page.html"))


def _inside(script: str) -> str:
    """Script text that cannot end its element: `</` stands in strings only, where `<\\/` means the same."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
