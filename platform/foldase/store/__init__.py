"""Everything durable: database, content-addressed blobs, event log, logs of attempts.

``Store.at(home)`` (or ``Store(url, blobs_path)``) opens it all; one object per process, safe to use from
several threads. Its parts, by who may use them:

The API reads, everywhere:

- ``store.queries.runs(cursor=, limit=, states=, text=) -> ([RunSummary], next)``, ``.run(id) -> Run``,
  ``.run_summary(id)``, ``.step(run, step) -> StepDetail``, ``.artifacts(run) -> [RunArtifact]``,
  ``.artifact(digest) -> Artifact``, ``.document(workflow_digest)``, ``.cached_keys(keys)``
- ``store.explain.why(run, step) -> Why``
- ``store.events.after(seq, run=, kinds=, limit=) -> [Event]``, ``.latest() -> int``; an ``Event`` has
  ``seq``, ``kind`` and ``json_text`` (the data to stream, made without parsing); ``RUN_KINDS``
- ``store.logs.read(run, step, "log" | "metrics", attempt=, offset=, limit=) -> (attempt, Page)``; a
  ``Page`` has ``lines``, ``next`` and ``end``
- ``store.cluster.read() -> ClusterRecord``
- ``store.blobs``: ``put_stream``, ``put_file``, ``put_tree``, ``writer(limit=)``, ``open``,
  ``open_in_tree``, ``manifest``, ``materialise``, ``verify``, ``verify_artifact``, ``size``, ``exists``

The API writes what people ask for:

- ``store.requests.submit(Submission.of(checked, inputs, source=), user=, idempotency_key=,
  body_digest=) -> (Run, new)``,
  ``.resume(run, user=, idempotency_key=) -> (Run, new)``, ``.request_cancel(run) -> RunSummary``,
  ``.register_artifact(artifact)``
- ``store.accounts``: ``new_code``, ``redeem_code``, ``new_token``, ``sign_in``, ``token_user``,
  ``session_user``, ``end_session``, ``tokens``, ``revoke_token``

The scheduler's process writes everything else: ``store.commits``, ``store.leases``,
``store.cluster.record``, ``store.logs.archive``; workers append with ``store.attempt_logs.writer``.

Records have ``to_json()`` with the JSON of the API. Errors are those of the contracts: ``NotFound``,
``Conflict``, ``NotSignedIn``, ``BadInput``, ``TooLarge``, ``StorageFull``, ``Unavailable``, ``Damaged``.
"""

from foldase.store.accounts import Accounts, TokenRecord
from foldase.store.artifacts import BlobStore, TreeFile
from foldase.store.clock import Clock, SystemClock, rfc3339
from foldase.store.commits import Changes, Commits, Diverged
from foldase.store.events import RUN_KINDS, Events
from foldase.store.faults import FAULTPOINTS, faultpoint
from foldase.store.identity import Identity, environment, identify
from foldase.store.leases import Lease, LeaseLost, Leases
from foldase.store.logs import AttemptLogs, LineWriter, Page
from foldase.store.records import (
    Attempt,
    ClusterRecord,
    Difference,
    Event,
    NewStep,
    QueueEntry,
    Run,
    RunArtifact,
    RunSummary,
    StepDetail,
    StepSummary,
    Submission,
    User,
    Why,
    WorkerRecord,
    artifact_json,
)
from foldase.store.store import Store

__all__ = [
    "FAULTPOINTS",
    "RUN_KINDS",
    "Accounts",
    "Attempt",
    "AttemptLogs",
    "BlobStore",
    "Changes",
    "Clock",
    "ClusterRecord",
    "Commits",
    "Difference",
    "Diverged",
    "Event",
    "Events",
    "Identity",
    "Lease",
    "LeaseLost",
    "Leases",
    "LineWriter",
    "NewStep",
    "Page",
    "QueueEntry",
    "Run",
    "RunArtifact",
    "RunSummary",
    "StepDetail",
    "StepSummary",
    "Store",
    "Submission",
    "SystemClock",
    "TokenRecord",
    "TreeFile",
    "User",
    "Why",
    "WorkerRecord",
    "artifact_json",
    "environment",
    "faultpoint",
    "identify",
    "rfc3339",
]
