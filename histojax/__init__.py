"""histojax: enhance H&E histology images and find their nuclei, in JAX."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Commands import this package for its version, and have to answer at once.
    if name == "predict_array":
        from histojax.inference.arrays import predict_array

        return predict_array
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
