"""Both stores as a whole: moved to other engines, backed up, restored."""
