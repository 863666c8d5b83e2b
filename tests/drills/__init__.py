"""Drills: what the environment must stand while visitors are served, and the figures of it."""
