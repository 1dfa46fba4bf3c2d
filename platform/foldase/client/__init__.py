"""The Python client: everything the command line does, from a program."""

from foldase.client.client import Client
from foldase.client.models import Event, LogLine, Run, RunSummary, Step, StepDetail, Why

__all__ = ["Client", "Event", "LogLine", "Run", "RunSummary", "Step", "StepDetail", "Why"]
