"""Every family by name."""

from maquette.families.family import Family
from maquette.families.mini import MINI
from maquette.families.sd1 import SD1

FAMILIES: dict[str, Family] = {family.name: family for family in (SD1, MINI)}
