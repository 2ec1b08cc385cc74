"""3D detection from cameras and radar: CenterFusion, and CenterNet without radar."""

from __future__ import annotations

from visloom.tasks.fusion3d.batch import FusionBatch, Targets
from visloom.tasks.fusion3d.compat import Compat
from visloom.tasks.fusion3d.nds import Rules
from visloom.tasks.fusion3d.nets import DlaNet, TimmNet, TrunkSpec
from visloom.tasks.fusion3d.spec import Fusion3d

__all__ = ["Compat", "DlaNet", "Fusion3d", "FusionBatch", "Rules", "Targets", "TimmNet", "TrunkSpec"]
