"""Labelled data to figures and animations.

Functions return what they drew and show nothing. They use neither pyplot nor its global state, and matplotlib is
imported when the first figure is made.
"""

from sa_nowcast.plotting.attention import plot_attention
from sa_nowcast.plotting.diagrams import plot_diagrams
from sa_nowcast.plotting.ensemble import plot_members, plot_meteogram, plot_probability
from sa_nowcast.plotting.forecast import animate, plot_forecast
from sa_nowcast.plotting.frames import plot_frames
from sa_nowcast.plotting.scores import plot_scores

__all__ = [
    "animate", "plot_attention", "plot_diagrams", "plot_forecast", "plot_frames", "plot_members", "plot_meteogram",
    "plot_probability", "plot_scores",
]  # fmt: skip
