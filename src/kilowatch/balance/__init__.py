"""Where a site's energy comes from and where it goes: now, and over a window of time."""
