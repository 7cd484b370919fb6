"""Write the rollouts of a stage, read while they are written, kept as they come.

This file does not know what the rollouts are for, nor which engine writes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from mien.progress import Progress
from mien.records import Engine, Reading, Rollout, Sampling, WriteRequest
from mien.store import Stage, rollout_of, rollout_record


def write_rollouts(
    engine: Engine,
    requests: Sequence[WriteRequest],
    sampling: Sampling,
    stage: Stage,
    progress: Progress,
    *,
    read: bool = True,
) -> list[Rollout]:
    """Write what is not on disk yet; gives all rollouts asked for, in the order of `requests`.

    Raises:
        RunError: the disk refuses; what was written before is intact.
    """
    wanted = {r.id for r in requests}
    finished = len(wanted & stage.done)
    if finished:
        progress.advance(finished)
    for batch in engine.write(requests, sampling, read=read, done=stage.done):
        records = [{**rollout_record(rollout), "row": row} for row, (rollout, _) in enumerate(batch)]
        stage.append(records, {rollout.id: reading for rollout, reading in batch if reading} if read else None)
        finished += len(batch)
        progress.advance(finished, sum(len(rollout.response_ids) for rollout, _ in batch))
    by_id = {str(r["id"]): r for r in stage.records}
    return [rollout_of(by_id[request.id]) for request in requests]


def readings_of(stage: Stage, rollouts: Sequence[Rollout]) -> list[Reading]:
    """The readings of `rollouts`, in their order."""
    by_id = {reading.id: reading for reading in stage.readings()}
    return [by_id[rollout.id] for rollout in rollouts]
