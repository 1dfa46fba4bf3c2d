"""Readers and writers of the files that come in and go out: sequences, alignments, structures, arrays."""
