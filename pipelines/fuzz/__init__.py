"""Generated and damaged input for all that is public, and kills for all that writes."""
