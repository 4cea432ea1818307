"""Devices, processes, and what they exchange."""
