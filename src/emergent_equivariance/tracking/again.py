"""Recording again, from the results, what was not recorded or is lost."""

from __future__ import annotations

from dataclasses import replace

from .. import store
from ..inputs import read_data
from ..study import Study
from .jobs import log_shard, log_theory, shard_identity
from .runs import run_id
from .sync import Say, recordings


def record_again(study: Study, say: Say) -> None:
    """Record offline every theory store and shard on disk of which there is no complete recording.

    The summary is recorded by `emeq figures`. Raises StoreError where a store is damaged or of other settings.
    """
    offline = replace(study, tracking=study.tracking.model_copy(update={"wandb": "offline"}))
    held = {entry.id for entry in recordings(study.root / "tracking") if entry.content.finished}
    for arm in {arm.theory_key: arm for arm in reversed(study.arms)}.values():
        path = study.theory_path(arm)
        if path.is_file() and run_id(study, "theory", [arm.theory_key]) not in held:
            log_theory(offline, arm, store.read(path).load(), read_data(study, arm))
            say(f"recorded: theory {arm.theory_key}")
    for arm in study.arms:
        for first, last in study.existing_shards(arm):
            if run_id(study, "train", shard_identity(arm, first, last)) not in held:
                shard = store.read(study.shard_path(arm, first, last), config_hash=arm.config_hash).load()
                log_shard(offline, arm, shard, read_data(study, arm))
                say(f"recorded: train {arm.path}/{first}-{last}")
