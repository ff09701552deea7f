"""Every remedy that an error prints, executed on an input that provokes the error."""
