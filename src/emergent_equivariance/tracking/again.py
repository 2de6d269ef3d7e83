"""Recording again, from the results, what was not recorded or is lost."""

from __future__ import annotations

from dataclasses import replace

from .. import store
from ..errors import TrackingError
from ..inputs import read_data
from ..study import Study
from .jobs import log_shard, log_theory, shard_identity
from .runs import run_id
from .sync import Say, checked_folder, recordings


def record_again(study: Study, say: Say) -> None:
    """Record offline every theory store and shard on disk of which there is no complete recording.

    The summary is recorded by `emeq figures`. Raises StoreError where a store is damaged or of other settings or a link
    leads out of the results, TrackingError where a run could not be recorded; warnings before it say why.
    """
    offline = replace(study, tracking=study.tracking.model_copy(update={"wandb": "offline"}))
    folder = checked_folder(study)
    held = {entry.id for entry in recordings(folder) if entry.content.finished}

    def tell(identity: str, name: str) -> None:
        if not any(entry.content.finished for entry in recordings(folder, identity)):
            raise TrackingError(f"{folder}: {name} could not be recorded.", remedy="See the warning above.")
        say(f"recorded: {name}")

    for arm in {arm.theory_key: arm for arm in reversed(study.arms)}.values():
        path, identity = study.theory_path(arm), run_id(study, "theory", [arm.theory_key])
        if path.is_file() and identity not in held:
            log_theory(offline, arm, store.read(path).load(), read_data(study, arm))
            tell(identity, f"theory {arm.theory_key}")
    for arm in study.arms:
        for first, last in study.existing_shards(arm):
            identity = run_id(study, "train", shard_identity(arm, first, last))
            if identity not in held:
                shard = store.read(study.shard_path(arm, first, last), config_hash=arm.config_hash).load()
                log_shard(offline, arm, shard, read_data(study, arm))
                tell(identity, f"train {arm.path}/{first}-{last}")
