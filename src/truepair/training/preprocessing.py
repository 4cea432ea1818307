"""Preprocessing lives with the data, where judges can reach it too; these are its names for the floors above."""

from truepair.data.preprocessing import FILE, Preprocessing

__all__ = ["FILE", "Preprocessing"]
