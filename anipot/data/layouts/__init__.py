"""Readers, one for each layout of files."""
