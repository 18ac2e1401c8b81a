"""Files: those of others, which are looked at before they are read, and our own, which are there in
full or not at all. HDF5 both ways."""
