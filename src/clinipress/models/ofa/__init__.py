"""Once-for-all networks: supernets, their sub-nets, and what is said of both."""

from clinipress.models.ofa.architecture import OFA_595, Architecture, Space
from clinipress.models.ofa.extraction import extract, sort_by_importance
from clinipress.models.ofa.network import (
    MobileNet,
    SuperNet,
    ofa_595,
    ofa_mobilenetv3,
    ofa_supernet,
)

__all__ = [
    "OFA_595",
    "Architecture",
    "MobileNet",
    "Space",
    "SuperNet",
    "extract",
    "ofa_595",
    "ofa_mobilenetv3",
    "ofa_supernet",
    "sort_by_importance",
]
