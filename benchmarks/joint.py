"""What models of several modalities under one code have in common, whatever they are of."""

from typing import Any

LR = 2e-3
SETTINGS: dict[str, Any] = {
    "hidden": (),
    "skip": True,
    "optimizer": "adamw",
    "schedule": "onecycle",
    "lr": LR,
    "hide": 1.0,
    "explain": True,
    "validation": 0.0,
    "patience": None,
    "verbose": 0,
    "device": "cpu",
}
IMAGES: dict[str, Any] = {**SETTINGS, "top": (50,), "units": (300,), "samples": 1}
