"""Housekeeping: what is stored of all runs, how large it is, and what can go."""
