"""What a service published, shown: a page, files, and queries at points and over areas. Nothing is ever written."""
