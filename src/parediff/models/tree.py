"""Finding and replacing modules inside a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

Wanted = type[nn.Module] | tuple[type[nn.Module], ...] | Callable[[str, nn.Module], bool]


def _predicate(wanted: Wanted) -> Callable[[str, nn.Module], bool]:
    if isinstance(wanted, type | tuple):
        return lambda _, module: isinstance(module, wanted)
    return wanted


def named(root: nn.Module, wanted: Wanted) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of every wanted descendant, in definition order; does not look inside a match."""
    matches = _predicate(wanted)
    for name, child in root.named_children():
        if matches(name, child):
            yield name, child
        else:
            for path, module in named(child, lambda path, module, name=name: matches(f"{name}.{path}", module)):  # type: ignore[misc]
                yield f"{name}.{path}", module


def put(root: nn.Module, path: str, module: nn.Module) -> None:
    """Set the descendant at `path`."""
    *parents, leaf = path.split(".")
    owner = root.get_submodule(".".join(parents))
    owner._modules[leaf] = module


def replace(root: nn.Module, wanted: Wanted, build: Callable[[nn.Module], nn.Module]) -> list[str]:
    """Replace every wanted descendant by `build(module)`; the paths replaced. Raises where nothing matched."""
    matches = list(named(root, wanted))
    if not matches:
        raise ValueError(f"nothing to replace in {type(root).__name__}: no module matched {wanted}")
    for path, module in matches:
        put(root, path, build(module))
    return [path for path, _ in matches]
