"""Transitions kept for learning, each frame once."""
