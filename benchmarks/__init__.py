"""One program per claim, each printing JSON lines."""
