"""Unified perceptual parsing: scene, objects, parts, materials and textures by one network, from several sources.

    Parse(net=Uper(), heads=(Pixels(...), Parts(...), Whole(...)))    the task, a value in a Run
A source labels some heads; a step trains those that its samples are labelled for.
"""

from visloom.tasks.parse.batch import ParseBatch
from visloom.tasks.parse.heads import Head, Parts, PartsOf, Pixels, Texture, Whole
from visloom.tasks.parse.nets import Uper
from visloom.tasks.parse.spec import Parse

__all__ = ["Head", "Parse", "ParseBatch", "Parts", "PartsOf", "Pixels", "Texture", "Uper", "Whole"]
