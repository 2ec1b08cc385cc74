"""The town: an embedded world. A procedural street gives every system its data, without a file or a download."""

from __future__ import annotations

from visloom.data.town.drive import Drive
from visloom.data.town.scene import CLASSES
from visloom.data.town.scenery import Scenery
from visloom.data.town.sights import Sights
from visloom.data.town.world import Streets, Town

__all__ = ["CLASSES", "Drive", "Scenery", "Sights", "Streets", "Town"]
