"""nuScenes: read straight from its tables (Caesar et al. 2020)."""
