"""Bandwidth traces: canonical form, formats, generators."""
