"""A cell whose devices are reached through the nodes that present them: `--cell ros:twin`, `--cell ros:cells/lab.yaml`.

Those nodes are sim_node for the twin, arm_node and camera_node for a cell file (launch/robot.launch.py starts them); a
cell file whose arm runs in ROS 2 already stays as it is.
"""

from drivers.cell_file import ArmFile, CameraFile, CellFile, GripperFile, TrackerFile, load_cell_file

__all__ = ["PREFIX", "over_ros"]

PREFIX = "ros:"
TWIN_CAMERAS = ("front", "wrist")


def over_ros(cell: str) -> CellFile:
    """The cell behind `ros:`.

    Args:
        cell: `twin`, or the path of a cell file.

    Raises:
        ConfigError: No such cell file, or a mistake in it.
    """
    if cell == "twin":
        return CellFile(
            arm=ArmFile(driver="ros2"), gripper=GripperFile(driver="ros2"), tracker=TrackerFile(driver="ros2"),
            cameras={name: CameraFile(driver="ros2", source=f"/{name}/image_raw") for name in TWIN_CAMERAS},
        )  # fmt: skip
    file = load_cell_file(cell)
    if file.arm.driver == "ros2":
        return file
    cameras = {name: _over_ros(name, camera) for name, camera in file.cameras.items()}
    arm = ArmFile(driver="ros2", home=file.arm.home, max_state_age_s=file.arm.max_state_age_s)
    known = {key: value for key, value in file.gripper.options.items() if key == "max_opening"}
    gripper = GripperFile(driver="none") if file.gripper.driver == "none" else GripperFile(driver="ros2", options=known)
    return file.model_copy(update={"arm": arm, "gripper": gripper, "cameras": cameras})


def _over_ros(name: str, camera: CameraFile) -> CameraFile:
    if camera.driver == "ros2":
        return camera
    return CameraFile(
        driver="ros2", source=f"/{name}/image_raw", crop=camera.crop, max_age_s=camera.max_age_s, width=camera.width,
        height=camera.height, intrinsics=camera.intrinsics, distortion=camera.distortion,
    )  # fmt: skip
