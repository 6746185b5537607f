"""Arms the twin knows, and how to bring one's own.

An arm is an MJCF file with one chain of joints and a site at its flange. Any such file will do, MuJoCo Menagerie's
included: `load_arm("my_arm.xml")` takes the joints in order, finds the flange, drops the file's actuators and reads
limits and home posture from it.
"""

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import ConfigError

__all__ = ["ARMS", "ArmModel", "load_arm"]

Array = NDArray[np.float64]
MODELS = Path(__file__).parent / "models"
FLANGE_SITES = ("flange", "attachment_site", "tool0")
UNLIMITED_TORQUE = 1e3


@dataclass(frozen=True)
class ArmModel:
    """An arm for the twin.

    Attributes:
        name: What people call it.
        path: Its MJCF file.
        flange: Name of the site a tool is mounted on, z out of the flange.
        home: Joint posture at rest [rad], shape (n,); also where the null space pulls to.
        torque_limits: [N m], shape (n,).
    """

    name: str
    path: Path
    flange: str
    home: Array
    torque_limits: Array


def _built_in(name: str, home: list[float]) -> ArmModel:
    arm = load_arm(MODELS / f"{name}.xml")
    return ArmModel(name, arm.path, arm.flange, np.array(home), arm.torque_limits)


ARMS: dict[str, list[float]] = {
    "fr3": [0.0, -0.041759, 0.0, -2.334272, 0.0, 2.292514, 0.785398],
    "ur5e": [-0.269864, -1.538540, 1.887982, -1.920238, -1.570796, -1.055262],
}
"""Built-in arms: name to home posture [rad], tcp at (0.5, 0, 0.25) m and pointing straight down."""


def load_arm(arm: str | Path) -> ArmModel:
    """An arm by name ("fr3", "ur5e") or by the path of an MJCF file.

    From a file: every hinge and slide joint in order of appearance; the flange is the first site named `flange`,
    `attachment_site` or `tool0`; torque limits from the joints' `actuatorfrcrange`, else from the file's motors'
    `forcerange`, else 1000; home from a keyframe named `home`, else the middle of each joint's range.

    Raises:
        ConfigError: No such arm or file, no joints, or no flange site.
    """
    if isinstance(arm, str) and arm in ARMS:
        return _built_in(arm, ARMS[arm])
    path = Path(arm)
    if path.suffix != ".xml" or not path.is_file():
        raise ConfigError(
            f"Unknown arm {str(arm)!r}. Known: {', '.join(ARMS)}; or give the path of an MJCF file (.xml)."
        )
    try:
        model = mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise ConfigError(f"{path} is not an MJCF file MuJoCo can load: {error}") from error
    simple = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
    if not np.isin(model.jnt_type, simple).all():
        raise ConfigError(
            f"{path} has a free or ball joint; an arm is a chain of hinges and slides, fixed to the world."
        )
    if model.njnt == 0:
        raise ConfigError(f"{path} has no joints; an arm needs at least one.")
    sites = [model.site(i).name for i in range(model.nsite)]
    flange = next((name for name in FLANGE_SITES if name in sites), None)
    if flange is None:
        raise ConfigError(
            f"{path} has no site named {' or '.join(FLANGE_SITES)}; it has {sites}. Add one at the flange, z out."
        )
    limits = np.full(model.njnt, UNLIMITED_TORQUE)
    for actuator in range(model.nu):
        if model.actuator_forcelimited[actuator] and model.actuator_trntype[actuator] == mujoco.mjtTrn.mjTRN_JOINT:
            limits[model.actuator_trnid[actuator, 0]] = model.actuator_forcerange[actuator, 1]
    limited = model.jnt_actfrclimited.astype(bool)
    limits[limited] = model.jnt_actfrcrange[limited, 1]
    keys = [model.key(i).name for i in range(model.nkey)]
    home = model.key_qpos[keys.index("home")] if "home" in keys else model.jnt_range.mean(axis=1)
    return ArmModel(path.stem, path, flange, np.array(home, dtype=np.float64), limits)
