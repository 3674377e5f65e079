"""What writes a run's outputs for one image, by name; `base.Sink` is what each is."""

from histojax.inference.sinks.base import Sink
from histojax.inference.sinks.rasters import Classes, Enhanced, EnhancedLabels, Labels

# The files of a prediction are listed in this order.
SINKS: dict[str, type[Sink]] = {
    "sr": Enhanced,
    "labels": Labels,
    "sr.labels": EnhancedLabels,
    "classes": Classes,
}
