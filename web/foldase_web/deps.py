"""What routes ask for by type."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Path, Request

from foldase.store import Store
from foldase_web.context import Services
from foldase_web.security import principal_of
from foldase_web.services.signin import Person
from foldase_workflows.contracts.errors import NotFound

_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_MAX_STEP_ID = 1000


def get_services(request: Request) -> Services:
    """The services of this application."""
    services: Services = request.app.state.services
    return services


def get_store(request: Request) -> Store:
    """The store."""
    return get_services(request).store


def get_person(request: Request) -> Person:
    """Who is signed in; the gate has already seen to it that somebody is."""
    person = principal_of(request.scope)
    assert isinstance(person, Person)
    return person


def get_run_id(run: Annotated[str, Path(description="id of a run")]) -> str:
    """An id that a run could have; others are unknown, whatever they are made of."""
    if not _RUN_ID.match(run):
        raise NotFound("there is no such run", code="unknown_run")
    return run


def get_step_id(step: Annotated[str, Path(description="id of a step: its name, or `name[key]`")]) -> str:
    """An id that a step could have."""
    if len(step) > _MAX_STEP_ID or "\0" in step:
        raise NotFound("there is no such step", code="unknown_step")
    return step


ServicesDep = Annotated[Services, Depends(get_services)]
StoreDep = Annotated[Store, Depends(get_store)]
PersonDep = Annotated[Person, Depends(get_person)]
RunId = Annotated[str, Depends(get_run_id)]
StepId = Annotated[str, Depends(get_step_id)]
