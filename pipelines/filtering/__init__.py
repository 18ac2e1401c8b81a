"""Match files of other programs, filtered."""
