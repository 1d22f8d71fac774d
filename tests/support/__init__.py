"""Fakes, and graphs to try things on."""
