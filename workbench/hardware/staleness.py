"""Whether a calibration still describes the machine that a run was measured on."""

from __future__ import annotations

from typing import Any

from workbench.store.records import Environment, RunRecord

_DAY_S = 86400.0


def staleness(calibration: dict[str, Any], environment: Environment, record: RunRecord) -> str:
    """Returns why a calibration of the same machine may not hold for a run, one clause; empty if nothing that was
    recorded says so.

    Args:
        environment: of the run.
        record: of the run: when it was submitted, how old a calibration may be, and which load of other programs disturbs.
    """
    load, platform = calibration.get("other_load_cores"), calibration.get("environment", {}).get("platform")
    if load is not None and load > record.max_other_load_cores:
        return f"other programs used {load:.1f} cores during the calibration"
    if platform and environment.platform and platform != environment.platform:
        return f"the calibration was made under {platform}, the run under {environment.platform}"
    age_days = (record.created_at - calibration.get("created_at", record.created_at)) / _DAY_S
    if age_days > record.max_calibration_age_days:
        return f"the calibration was {age_days:.0f} days old"
    return ""
