"""How runs move on: which steps follow from which, what is scattered, gathered, skipped and finished.

Nothing here knows of workers or resources. Steps that must run are handed to ``admit``; everything else is
settled at once, so that a chain of cached steps takes one tick.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from foldase.scheduler.cache import CacheDesk, Result
from foldase.scheduler.journal import Journal
from foldase.scheduler.model import TERMINAL, Run, Step, gathered
from foldase.store.commits import CacheConnection
from foldase.store.jsontext import dumps, loads
from foldase_workflows.contracts.artifacts import artifacts_in
from foldase_workflows.contracts.errors import FoldaseError
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.spec import Item

Json = dict[str, Any]


class Flow:
    """Moves runs on. ``journal`` and ``moment`` (milliseconds) belong to the present tick."""

    def __init__(self, desk: CacheDesk, admit: Callable[[Step], None]) -> None:
        self.journal = Journal()
        self.moment = 0
        self.finished: list[Run] = []
        self._desk = desk
        self._admit = admit
        self._to_prepare: deque[Step] = deque()
        self._fresh: list[Step] = []

    def take_up(self, run: Run) -> None:
        """Begin with a run that was just loaded: see what can be done with each of its steps."""
        for step in list(run.steps.values()):
            if step.state == "ready":
                self.refresh(step)
            elif step.state == "running" and step.plan.cache == "use" and step.cache_key is not None:
                self._desk.lead(step, step.cache_key)
            elif step.key is None and step.state == "pending" and run.waiting[step.id] == 0:
                self._to_prepare.append(step)
            elif step.key is None and step.state == "running" and run.open_items.get(step.id) == 0:
                self._gather(step)
        if run.unsettled == 0:
            self._finish(run)

    def refresh(self, step: Step) -> None:
        """Have a step with known inputs looked up and admitted (again)."""
        self._fresh.append(step)

    def advance(self, cache: CacheConnection) -> None:
        """Settle everything that follows from what has happened."""
        while self._to_prepare or self._fresh:
            while self._to_prepare:
                self._prepare(self._to_prepare.popleft())
            fresh, self._fresh = self._fresh, []
            self._probe([step for step in fresh if step.state in ("pending", "ready")], cache)

    def move(self, step: Step, state: str) -> None:
        """Change the state of a step and keep all that depends on it in keeping."""
        run = step.run
        assert step.state not in TERMINAL, (step.id, step.state, state)
        if step.counted:
            run.counts[step.state] -= 1
            run.counts[state] += 1
        step.state = state
        if state == "running" and step.item_count is None:
            run.running[step.id] = step
        else:
            run.running.pop(step.id, None)
        if state in TERMINAL:
            step.finished_at = self.moment
            step.waiting_for = None
            step.retry_at = None
        if run.state == "pending" and state in ("running", "succeeded"):
            run.state, run.started_at = "running", self.moment
        self.journal.step(step)

    def succeed(self, step: Step, outputs: Json, text: str, source: Result | None = None) -> None:
        """A step has its outputs; ``source`` is set when somebody else made them."""
        step.outputs, step.outputs_text = outputs, text
        step.progress = 1.0
        step.cached = source is not None
        step.error = None
        if source is not None:
            step.source = (source.run, source.step)
        self.move(step, "succeeded")
        self._settle(step)

    def fail(self, step: Step, cause: Cause, error: Json) -> None:
        """A step is over without a result and will not be tried again."""
        step.error = {"cause": str(cause), **error}
        self.move(step, "failed")
        self._settle(step)

    def cancel(self, step: Step) -> None:
        """A step ends because its run was cancelled."""
        self.move(step, "cancelled")
        self._settle(step)

    def skip(self, step: Step, reason: str, *, failed: str | None = None) -> None:
        """A step will not run: a condition said so, or the step ``failed`` before it left no result."""
        step.message = reason
        if failed is not None:
            step.error = {"cause": "upstream", "code": "upstream_failed", "message": reason, "step": failed}
        self.move(step, "skipped")
        self._settle(step)

    def cancel_waiting(self, run: Run) -> None:
        """End all steps of a run that do not run yet; what they would lead to ends with them."""
        run.cancelling = True
        self.journal.run(run)
        for step in list(run.steps.values()):
            if step.state in ("pending", "ready"):
                self.cancel(step)

    def _prepare(self, step: Step) -> None:
        """The steps that a step waits for are settled, or one of them left nothing: what becomes of it?"""
        if step.state != "pending":
            return
        run, plan = step.run, step.plan
        for name in plan.needs:
            other = run.steps[name]
            if other.state in ("failed", "cancelled") or (other.state == "skipped" and other.error):
                root = (other.error or {}).get("step", name)
                self.skip(step, f"step {root} {run.steps[root].state}", failed=root)
                return
            if other.state == "skipped" and name not in plan.order_only:
                self.skip(step, f"step {name}, which it takes from, was skipped")
                return
        if run.waiting[step.id] > 0:
            return
        try:
            if not plan.wanted(run.scope):
                self.skip(step, "its condition is false")
            elif plan.scattered:
                self._expand(step)
            else:
                self._give_inputs(step, None)
        except FoldaseError as error:
            self.fail(step, Cause.BAD_INPUT, error_json(error))

    def _give_inputs(self, step: Step, item: Item | None) -> None:
        self.set_inputs(step, step.plan.inputs(step.run.scope, item))
        self._fresh.append(step)

    def set_inputs(self, step: Step, inputs: Json) -> None:
        """Give a step its complete inputs, and with them its identity."""
        identity = step.plan.identity(inputs)
        step.inputs, step.inputs_text = inputs, dumps(inputs)
        step.identity, step.cache_key = identity, identity.key
        step.cache_policy = step.plan.cache

    def change_inputs(self, step: Step, inputs: Json) -> None:
        """Give a step other inputs than before; steps that waited for the same work wait no longer.

        Where the inputs change nothing in the identity of the result, it is still the same work.
        """
        before = step.cache_key
        self.set_inputs(step, inputs)
        if before is not None and before != step.cache_key:
            self._fresh += self._desk.release(step, before)

    def _expand(self, step: Step) -> None:
        """Make the items of a scattered step."""
        run, plan = step.run, step.plan
        found = plan.items(run.scope)
        self.move(step, "running")
        # From here on the items are counted instead; a step without any counts for itself.
        if found:
            run.counts[step.state] -= 1
        step.item_count = len(found)
        run.running.pop(step.id, None)
        step.started_at = self.moment
        items = run.items[step.id] = []
        run.open_items[step.id] = len(found)
        for place, item in enumerate(found):
            born = Step(run, plan, f"{step.id}[{item.key}]", step.position, key=item.key, item=place)
            items.append(born)
            run.steps[born.id] = born
            run.counts["pending"] += 1
            try:
                self._give_inputs(born, item)
            except FoldaseError as error:
                self.fail(born, Cause.BAD_INPUT, error_json(error))
        if not found:
            self._gather(step)

    def _probe(self, steps: list[Step], cache: CacheConnection) -> None:
        """Take results that exist, wait for equal work, and admit the rest."""
        self._desk.look_up([step.cache_key for step in steps if step.cache_key], cache)
        for step in steps:
            key = step.cache_key
            assert key is not None
            if step.identity is not None and not self._desk.knows(key):
                self._desk.learn(key)
                self.journal.identity(key, step.identity.components, self.moment)
            step.identity = None
            if self._taken_over(step, key):
                continue
            if step.plan.cache == "use":
                hit = self._desk.hit(key)
                if hit is not None:
                    self.succeed(step, hit[1], hit[0].outputs, hit[0])
                    continue
                leader = self._desk.lead(step, key)
                if leader is not None:
                    self._wait_for(step, leader)
                    continue
            self._admit(step)

    def _taken_over(self, step: Step, key: str) -> bool:
        """Use what the run that this one resumes had finished, whatever the cache policy says."""
        before = step.run.prior.get(step.id)
        if before is None or before.cache_key != key:
            return False
        outputs = loads(before.outputs)
        if not self._desk.whole(outputs):
            return False
        step.message = f"taken over from run {before.run}"
        self.succeed(step, outputs, before.outputs, Result(before.outputs, before.run, before.id))
        return True

    def _wait_for(self, step: Step, leader: Step) -> None:
        place = f"step {leader.id}" if leader.run is step.run else f"step {leader.id} of run {leader.run.id}"
        step.waiting_for = f"the same work in {place}"
        if step.state != "ready":
            step.ready_at = self.moment
            self.move(step, "ready")
        else:
            self.journal.step(step)

    def _settle(self, step: Step) -> None:
        """A step is in its final state: whatever waited for it may go on."""
        run = step.run
        if step.cache_key is not None:
            self._fresh += self._desk.release(step, step.cache_key)
        if step.key is not None:
            run.open_items[step.name] -= 1
            group = run.steps[step.name]
            group.progress = 1 - run.open_items[step.name] / max(1, group.item_count or 0)
            self.journal.step(group)
            if run.open_items[step.name] == 0:
                self._gather(group)
            return
        if step.item_count is None:
            if step.state == "succeeded":
                run.visible[step.id] = step.outputs
            elif step.state == "skipped":
                run.visible[step.id] = None
        run.unsettled -= 1
        for name in run.plan.downstream[step.id]:
            run.waiting[name] -= 1
            # What takes from a step without a result need not wait for its other sources.
            if run.waiting[name] == 0 or step.state != "succeeded":
                self._to_prepare.append(run.steps[name])
        if run.unsettled == 0:
            self._finish(run)

    def _gather(self, group: Step) -> None:
        """All items of a scattered step are settled: so is the step."""
        run, items = group.run, group.run.items[group.id]
        bad = [item for item in items if item.state == "failed"]
        run.visible[group.id] = gathered(run, group)
        group.progress = 1.0
        if any(item.state == "cancelled" for item in items):
            self.move(group, "cancelled")
        elif len(bad) > group.plan.allowed_failures(len(items)):
            first = bad[0].error or {}
            group.error = {**first, "message": _of_items(bad, items, first), "item": bad[0].id}
            self.move(group, "failed")
        else:
            if bad:
                group.message = f"{len(bad)} of {len(items)} items failed and are left out"
            self.move(group, "succeeded")
        self._settle(group)

    def _finish(self, run: Run) -> None:
        """All steps are settled: so is the run."""
        if run.state in TERMINAL:
            return
        steps = [step for step in run.steps.values() if step.key is None]
        wrong = next((step for step in steps if step.state == "failed"), None)
        if any(step.state == "cancelled" for step in steps):
            run.state = "cancelled"
        elif wrong is not None:
            run.state = "failed"
            run.error = {**(wrong.error or {}), "step": wrong.id}
        else:
            self._give_outputs(run)
        run.finished_at = self.moment
        run.started_at = run.started_at or self.moment
        self.journal.run(run)
        self.finished.append(run)

    def _give_outputs(self, run: Run) -> None:
        try:
            run.outputs = run.plan.outputs(run.scope)
        except FoldaseError as error:
            run.error = {"cause": str(Cause.BAD_INPUT), **error_json(error)}
            run.state = "failed"
            return
        run.state = "succeeded"
        self.journal.artifacts(artifacts_in(run.outputs))
        self.journal.output(run)


def error_json(error: FoldaseError) -> Json:
    """The fields of an error as stored with a step."""
    return dict(error.to_json())


def _of_items(bad: list[Step], items: list[Step], first: Json) -> str:
    return f"{len(bad)} of {len(items)} items failed; the first: {first.get('message', 'no message')}"
