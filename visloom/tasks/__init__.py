"""Tasks: a spec (the data's side) and a module (forward returns named losses) for each system."""
