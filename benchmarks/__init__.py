"""Measurements of speed and endurance; nothing here is part of the test suite."""
