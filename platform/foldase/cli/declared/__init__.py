"""The commands as the terminal sees them: names, options and help.

What they do lies one folder up and is imported when a command runs, so that ``foldase --help`` and the
completion of the shell answer at once.
"""
