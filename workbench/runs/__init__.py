"""The commands `cyclegan runs`: list, show and delete the runs in the store."""
