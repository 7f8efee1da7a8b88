"""Doors to other programs and formats."""
