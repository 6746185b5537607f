"""How fast the twin and the impedance law run, each beside a named reference in the same run."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import mujoco
import numpy as np

from drivers.impedance import ImpedanceLaw
from drivers.impedance_reference import ReferenceLaw
from drivers.twin import physics
from drivers.twin.arms import load_arm
from drivers.twin.devices import TwinCamera
from drivers.twin.scene import Scene
from drivers.twin.twin import Twin
from robot_rl.errors import DeviceError

__all__ = ["twin_benchmarks"]

TICKS = 20  # a control step of 20 ms
BLOCKS, STEPS_PER_BLOCK = 41, 100
LAW_BLOCKS, LAW_CALLS = 41, 200
IMAGE_BLOCKS, IMAGE_PAIRS = 11, 10


def twin_benchmarks() -> list[dict[str, Any]]:
    """Control steps, the law alone and pictures, as records {name, value, unit, reference, reference_value}."""
    return [_control_steps(), _law(), *_pictures()]


def _alternate(first: Callable[[], None], second: Callable[[], None], blocks: int) -> tuple[float, float]:
    """Median duration of each [s]; one block of either in turn, so that a busy machine slows both alike."""
    durations: tuple[list[float], list[float]] = ([], [])
    for block in range(blocks + 1):
        for action, kept in zip((first, second), durations, strict=True):
            start = time.perf_counter()
            action()
            if block:  # the first compiles and warms the caches
                kept.append(time.perf_counter() - start)
    return median(durations[0]), median(durations[1])


def _cube(scene: Scene) -> None:
    """A cube of 50 g lying on the table, as in pick_cube."""
    cube = scene.spec.worldbody.add_body(name="cube", pos=[0.5, 0.0, 0.02])
    cube.add_freejoint()
    cube.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02] * 3, mass=0.05, friction=[1.0, 0.01, 0.001])


def _control_steps() -> dict[str, Any]:
    """The whole control step against the same physics with nothing around it, both arms at rest above the cube."""
    driven, bare = Twin(load_arm("fr3"), _cube), Twin(load_arm("fr3"), _cube)
    for twin in (driven, bare):
        twin.advance(1.0)
    model, data = bare.model._address, bare.data._address
    duration = TICKS * driven.tick_s

    def hold() -> None:
        for _ in range(STEPS_PER_BLOCK):
            driven.advance(duration)

    def step_only() -> None:
        # The torque that holds the arm still, unchanged over a block of 2 s; then back to where the block began.
        bare.data.qpos[:], bare.data.qvel[:] = start_qpos, start_qvel
        for _ in range(STEPS_PER_BLOCK):
            physics.bare_steps(model, data, TICKS)

    start_qpos, start_qvel = bare.data.qpos.copy(), np.zeros(bare.model.nv)
    bare.data.qfrc_applied[:] = 0.0
    bare.data.qfrc_applied[bare.arm_dofs] = bare.data.qfrc_bias[bare.arm_dofs]
    ours, reference = _alternate(hold, step_only, BLOCKS)
    return {
        "name": "twin_control_steps_per_s",
        "value": STEPS_PER_BLOCK / ours,
        "unit": f"control steps/s ({TICKS} ticks of 1 ms, law in each)",
        "reference": "bare mj_step, as many ticks of the same scene",
        "reference_value": STEPS_PER_BLOCK / reference,
    }


def _law() -> dict[str, Any]:
    """One call from Python. The pose is 1 cm off, as under way."""
    twin = Twin(load_arm("fr3"))
    compiled, plain = ImpedanceLaw(twin.limits), ReferenceLaw(twin.limits)
    target = twin.tcp_pose + np.array([0.01, 0, 0, 0, 0, 0, 0])
    compiled.reset(twin.tcp_pose)
    plain.reset(twin.tcp_pose)

    def repeat(law: ImpedanceLaw | ReferenceLaw) -> None:
        for _ in range(LAW_CALLS):
            law.torque(target, twin.tcp_pose, twin.jacobian, twin.q, twin.qd, twin.bias)

    ours, reference = _alternate(lambda: repeat(compiled), lambda: repeat(plain), LAW_BLOCKS)
    return {
        "name": "law_us",
        "value": ours / LAW_CALLS * 1e6,
        "unit": "us a call from Python",
        "reference": "the same law in numpy (drivers/impedance_reference.py)",
        "reference_value": reference / LAW_CALLS * 1e6,
    }


def _pictures() -> list[dict[str, Any]]:
    """Two cameras of 128 x 128, against MuJoCo's renderer used directly. Left out where there is no OpenGL."""
    twin = Twin(load_arm("fr3"), _cube)
    cameras = [TwinCamera(twin, name) for name in ("front", "wrist")]
    try:
        for camera in cameras:
            camera.read()
    except DeviceError:
        return []
    renderer = mujoco.Renderer(twin.model, 128, 128)

    def ours() -> None:
        for _ in range(IMAGE_PAIRS):
            for camera in cameras:
                camera.read()

    def direct() -> None:
        for _ in range(IMAGE_PAIRS):
            for name in ("front", "tool/wrist"):
                renderer.update_scene(twin.data, camera=name)
                renderer.render()

    value, reference = _alternate(ours, direct, IMAGE_BLOCKS)
    for opened in (renderer, *cameras):
        opened.close()
    return [
        {
            "name": "render_images_per_s",
            "value": 2 * IMAGE_PAIRS / value,
            "unit": "images/s (128 x 128, two cameras)",
            "reference": "mujoco.Renderer, one for both cameras",
            "reference_value": 2 * IMAGE_PAIRS / reference,
        }
    ]
