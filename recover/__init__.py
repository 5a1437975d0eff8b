"""Prune a copy of the teacher and distil the teacher into it on a dream set."""
