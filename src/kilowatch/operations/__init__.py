"""How the installation is doing: for those who run it."""
