"""The HTML pages: the same services and rights as the API, for people."""
