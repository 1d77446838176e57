"""Which model of a training lies on which devices, and whether there is room for it."""

from aloe.placement.advice import advise
from aloe.placement.cluster import PLACE_S, check_place, nodes, placed
from aloe.placement.layout import Group, Node, groups_of, shortfall
from aloe.placement.memory import GIB
from aloe.placement.needs import Devices, rollout_model
from aloe.placement.phases import Kind, kinds_of, phases_of
from aloe.placement.room import engines_fit, training_fits
from aloe.placement.table import show

__all__ = [
    "GIB",
    "PLACE_S",
    "Devices",
    "Group",
    "Kind",
    "Node",
    "advise",
    "check_place",
    "engines_fit",
    "groups_of",
    "kinds_of",
    "nodes",
    "phases_of",
    "placed",
    "rollout_model",
    "shortfall",
    "show",
    "training_fits",
]
