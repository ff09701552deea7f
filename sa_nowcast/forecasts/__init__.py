"""Labelled forecasts: the model that gives them, what it accepts, their init times, lead times and labels."""
