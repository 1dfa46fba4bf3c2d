"""The workflow language of foldase and the operators it is written with."""
