"""Records that look like a study's, with invented numbers, for tests of what reads records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from parediff.provenance import fingerprint, run_id
from parediff.results.record import Record, write

MACS_PER_STEP, WEIGHTS = 11.4e6, 700_000
DETAILS = {"model": "ddpm_digits", "count": 1000, "reference_sampler": {"name": "ddim", "steps": 50, "eta": 0.0}}
UNITS = {
    "fd_digits": ["", "Fréchet distance"],
    "psnr": ["", "PSNR (dB)"],
    "ssim": ["", "SSIM"],
    "macs": ["MACs", "multiplications per image"],
    "bops": ["BOPs", "bit operations per image"],
    "nfe": ["", "denoiser calls per image"],
    "size_bytes": ["B", "weights on disk"],
    "latency_s": ["s", "time per image"],
    "peak_memory_bytes": ["B", "peak memory"],
}
LINE = {50: (5.6, None), 25: (7.1, 31.5), 10: (14.9, 24.2), 5: (47.3, 18.6)}
POINTS = {(8, 8): (5.9, 38.2), (6, 6): (8.4, 27.1), (4, 8): (12.3, 22.4), (4, 4): (61.0, 14.2)}


def record(
    methods: dict[str, dict[str, Any]] | None = None,
    *,
    steps: int = 50,
    bits: tuple[int, int] = (32, 32),
    **changes: Any,
) -> Record:
    """A finished run of `methods`, whose cost follows from steps and bits."""
    methods = methods or {}
    config: dict[str, Any] = {
        "model": {"name": "ddpm_digits", "path": "assets://ddpm_digits"},
        "methods": methods,
        "sampler": {"name": "ddim", "steps": steps, "eta": 0.0},
        "workload": {"first_seed": changes.pop("first_seed", 0), "count": 1000, "blocks": 4},
        "seed": changes.pop("seed", 0),
    }
    macs = MACS_PER_STEP * steps
    fields: dict[str, Any] = {
        "id": run_id(config, [config["workload"]["first_seed"], 1000]),
        "study": "demo",
        "status": "finished",
        "protocol": fingerprint(DETAILS),
        "protocol_details": DETAILS,
        "model": "ddpm_digits",
        "methods": list(methods),
        "sampler": config["sampler"],
        "workload": {"first_seed": config["workload"]["first_seed"], "count": 1000, "conditions": None},
        "better": {"fd_digits": "lower", "psnr": "higher", "ssim": "higher"},
        "units": UNITS,
        "cost": {
            "macs": macs,
            "bops": macs * bits[0] * bits[1],
            "nfe": float(steps),
            "size_bytes": WEIGHTS * bits[0] // 8,
            "latency_s": None if methods else 0.0011 * steps,
            "peak_memory_bytes": 41_000_000,
        },
        "fired": {name: {"share_of_layers": 0.957, "weight_bits": bits[0]} for name in methods},
        "config": config,
        "code": {"version": "0.1.0", "commit": "c" * 40, "dirty": False},
        "environment": {"python": "3.11.9", "cores": 2, "packages": {"torch": "2.14.1"}},
        "seconds": {"compress": 1.2, "sample": 9.8, "measure": 2.1},
    }
    return replace(Record(**fields), **changes)


def scored(made: Record, fd: float, psnr: float | None, *, error: float | None = 0.03) -> Record:
    """With its quality and fidelity; `error` is relative."""
    stderr = {} if error is None else {"fd_digits": fd * error, "psnr": None if psnr is None else 0.2}
    ssim = 1.0 if psnr is None else min(1.0, psnr / 40)
    return replace(made, quality={"fd_digits": fd}, fidelity={"psnr": psnr, "ssim": ssim}, stderr=stderr)


def study() -> list[Record]:
    """A fewer-steps line, four settings of ptq, and a run that failed."""
    line = [scored(record(steps=steps), *values) for steps, values in LINE.items()]
    ptq = [
        scored(record({"ptq": {"weight_bits": w, "activation_bits": a}}, bits=(w, a)), *values)
        for (w, a), values in POINTS.items()
    ]
    broken = record({"ptq": {"weight_bits": 2, "activation_bits": 2}}, status="failed")
    return [*line, *ptq, replace(broken, error="RuntimeError: no layer matched 'conv_in'\n  the rest of the trace")]


def write_study(root: Path) -> Path:
    """The study on disk, each run with its samples.png."""
    import numpy as np
    from PIL import Image

    for index, made in enumerate(study()):
        folder = root / made.study / made.id
        write(made, folder)
        if made.status == "finished":
            pixels = np.random.default_rng(index).integers(0, 256, (32, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "samples.png")
    return root
