"""The package version; read by the build and by `sa_nowcast.__version__`."""

__version__ = "0.1.0"
