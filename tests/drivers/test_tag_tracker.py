"""Tags on the twin, found in rendered pictures. `python -m tests.drivers.test_tag_tracker` prints how exactly."""

import time

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from drivers.cameras import CameraIntrinsics
from drivers.interfaces import Frame
from drivers.tag_layout import Tag
from drivers.tag_pose import PoseFilter, camera_poses, fit_upright
from drivers.tag_tracker import TagTracker, TagTrackerConfig, on_wrist
from drivers.twin.arms import load_arm
from drivers.twin.devices import TwinArm, TwinCamera
from drivers.twin.tags import add_tags, with_tags
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError, DeviceError, StaleStateError
from tasks.peg_insert import TAGS as SOCKET_TAGS
from tasks.peg_insert import PegInsert
from tasks.pick_cube import TAGS as CUBE_TAGS
from tasks.pick_cube import PickCube
from tasks.reach import TAGS as MARKER_TAGS
from tasks.reach import Reach

LENS = CameraIntrinsics(600.0, 605.0, 321.0, 238.0, 640, 480, (0.05, -0.1, 0.001, -0.002, 0.02))
ROOMY = TagTrackerConfig(upright=("socket",))
IDENTITY = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


def pose_of(position, rotation):
    return np.concatenate([position, rotation.as_quat()])


def socket_pose(rng):
    """As the task's reset: within 5 cm, turned by up to 30 degrees."""
    yaw = np.radians(30.0) * rng.uniform(-1.0, 1.0)
    return pose_of([0.5 + 0.05 * rng.uniform(-1, 1), 0.05 * rng.uniform(-1, 1), 0.0], Rotation.from_euler("z", yaw))


def errors(measured, truth):
    """Distance [m] and angle [rad] between two poses, by scipy."""
    turn = Rotation.from_quat(measured[3:]).inv() * Rotation.from_quat(truth[3:])
    return np.linalg.norm(measured[:3] - truth[:3]), turn.magnitude()


@pytest.fixture(scope="module")
def twin():
    made = Twin(load_arm("fr3"), with_tags(PegInsert().build, SOCKET_TAGS))
    camera = TwinCamera(made, "front")
    try:
        camera.read()
    except DeviceError as error:
        pytest.skip(f"this machine cannot render: {error}")
    finally:
        camera.close()
    return made


@pytest.fixture
def camera(twin):
    twin.reset()
    opened = TwinCamera(twin, "front", 480, 640)
    yield opened
    opened.close()


class Paper:
    """A camera whose picture and time a test sets."""

    height, width = 480, 640

    def __init__(self, frame):
        self.frame = frame

    def read(self):
        return self.frame

    def close(self):
        pass


def tracker_of(camera, config=ROOMY):
    return TagTracker(camera, camera.intrinsics, SOCKET_TAGS, camera.pose_in_base(), config)


def test_socket_is_found_to_a_millimetre(twin, camera):
    """Ground truth of the simulation, 20 random places; p50 is 0.05 mm, the worst of 100 is 0.35 mm."""
    rng, tracker = np.random.default_rng(1), tracker_of(camera)
    distances, angles = [], []
    for _ in range(20):
        truth = socket_pose(rng)
        twin.place("socket", truth)
        tracker.reset()
        seen = tracker.poses()["socket"]
        distance, angle = errors(seen.pose, truth)
        distances.append(distance)
        angles.append(angle)
        assert seen.reprojection_px < 0.5
    assert np.median(distances) < 0.0002
    assert max(distances) < 0.001
    assert max(angles) < np.radians(0.1)


def test_without_knowing_that_it_stands_upright_too(twin, camera):
    rng, tracker = np.random.default_rng(2), tracker_of(camera, TagTrackerConfig())
    for _ in range(5):
        truth = pose_of([0.5, 0.0, 0.05], Rotation.from_euler("xyz", rng.uniform(-0.2, 0.2, 3)))
        twin.place("socket", truth)
        tracker.reset()
        distance, angle = errors(tracker.poses()["socket"].pose, truth)
        assert distance < 0.003
        assert angle < np.radians(0.7)


def test_an_unbiased_corner(twin, camera):
    """Errors of many places average out: no half pixel (0.8 mm here) sits in the corners."""
    rng, tracker = np.random.default_rng(3), tracker_of(camera)
    offsets = []
    for _ in range(15):
        truth = socket_pose(rng)
        twin.place("socket", truth)
        tracker.reset()
        offsets.append(tracker.poses()["socket"].pose[:3] - truth[:3])
    np.testing.assert_allclose(np.mean(offsets, axis=0), 0.0, atol=0.0003)


def test_from_the_wrist(twin):
    """The camera moves with the arm; the socket is where it was."""
    twin.reset()
    truth = pose_of([0.5, 0.02, 0.0], Rotation.from_euler("z", 0.3))
    camera = TwinCamera(twin, "wrist", 480, 640)
    twin.jump_to_pose(np.array([0.46, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0]))
    in_base, tcp = camera.pose_in_base(), twin.tcp_pose
    turn = Rotation.from_quat(tcp[3:])
    on_tcp = pose_of(turn.inv().apply(in_base[:3] - tcp[:3]), turn.inv() * Rotation.from_quat(in_base[3:]))
    tracker = TagTracker(camera, camera.intrinsics, SOCKET_TAGS, on_wrist(TwinArm(twin), on_tcp), ROOMY)
    for x, y, yaw in ((0.46, 0.0, 0.0), (0.44, 0.05, 0.2)):
        quat = (Rotation.from_euler("z", yaw) * Rotation.from_euler("x", np.pi)).as_quat()
        twin.jump_to_pose(np.array([x, y, 0.3, *quat]))
        twin.place("socket", truth)
        tracker.reset()
        distance, angle = errors(tracker.poses()["socket"].pose, truth)
        assert distance < 0.001
        assert angle < np.radians(0.2)
    camera.close()


@pytest.mark.parametrize(
    ("task", "layout", "name"), [(Reach(), MARKER_TAGS, "marker"), (PickCube(), CUBE_TAGS, "cube")]
)
def test_other_tasks_wear_tags_too(task, layout, name):
    """Small ones, a metre away: to a centimetre."""
    twin = Twin(load_arm("fr3"), with_tags(task.build, layout))
    camera = TwinCamera(twin, "front", 720, 1280)
    truth = pose_of([0.55, 0.15, 0.02], Rotation.from_euler("z", 0.4 if name == "cube" else 0.0))
    twin.place(name, truth)
    try:
        poses = TagTracker(camera, camera.intrinsics, layout, camera.pose_in_base()).poses()
    except DeviceError as error:
        pytest.skip(f"this machine cannot render: {error}")
    finally:
        camera.close()
    assert errors(poses[name].pose, truth)[0] < 0.01


def test_tags_change_neither_physics_nor_untagged_scenes():
    plain = Twin(load_arm("fr3"), PickCube().build)
    tagged = Twin(load_arm("fr3"), with_tags(PickCube().build, CUBE_TAGS))
    assert plain.model.nmesh == 0
    assert tagged.model.nmesh == len(CUBE_TAGS["cube"])
    np.testing.assert_allclose(tagged.model.body("cube").mass, plain.model.body("cube").mass)
    np.testing.assert_allclose(tagged.model.body("cube").inertia, plain.model.body("cube").inertia)
    for twin in (plain, tagged):
        twin.place("cube", pose_of([0.5, 0.0, 0.1], Rotation.identity()))
        twin.advance(0.5)
    np.testing.assert_allclose(tagged.body_pose("cube"), plain.body_pose("cube"), atol=1e-9)


def test_tags_that_cannot_be_worn():
    with pytest.raises(ConfigError, match=r"no body 'sokcet' to wear tags; it has .*socket"):
        Twin(load_arm("fr3"), with_tags(PegInsert().build, {"sokcet": (Tag(0, 0.04),)}))
    with pytest.raises(ConfigError, match=r"Tag 600 is not in DICT_APRILTAG_36h11, which has 0 to 586"):
        Twin(load_arm("fr3"), with_tags(PegInsert().build, {"socket": (Tag(600, 0.04),)}))
    with pytest.raises(ConfigError, match="No tag dictionary 'DICT_TYPO'"):
        Twin(load_arm("fr3"), with_tags(PegInsert().build, {"socket": (Tag(0, 0.04),)}, "DICT_TYPO"))


def test_a_plate_shows_its_tag_the_right_way_round():
    """Corners by hand: an object 1 m along the view, the tag facing the camera, 0.1 m wide, f = 579.41 px."""

    def card(scene):
        scene.spec.worldbody.add_body(name="card", mocap=True)
        add_tags(scene, {"card": (Tag(3, 0.1),)})

    twin = Twin(load_arm("fr3"), card)
    camera = TwinCamera(twin, "front", 480, 640)
    view = Rotation.from_quat(camera.pose_in_base()[3:])
    position = camera.pose_in_base()[:3] + view.apply([0.0, 0.0, 1.0])
    # x right as the camera sees it, y up, z towards it.
    twin.place("card", pose_of(position, view * Rotation.from_euler("x", np.pi)))
    try:
        image = camera.read().image
    except DeviceError as error:
        pytest.skip(f"this machine cannot render: {error}")
    finally:
        camera.close()
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11))
    corners, numbers, _ = detector.detectMarkers(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    assert numbers.ravel().tolist() == [3]
    half = 0.05 * 240.0 / np.tan(np.radians(22.5))
    expected = half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) + np.array([319.5, 239.5])
    np.testing.assert_allclose(corners[0][0], expected, atol=1.5)


def test_pose_from_corners_through_a_lens():
    """Corners projected by OpenCV with distortion, turned by scipy: the pose comes back."""
    points = np.concatenate([tag.corners_in_object() for tag in CUBE_TAGS["cube"][:2]])  # two faces: not coplanar
    flat = np.concatenate([tag.corners_in_object() for tag in SOCKET_TAGS["socket"]])
    turn = Rotation.from_euler("xyz", [2.6, 0.3, 0.5])
    for corners in (points, flat):
        pixels, _ = cv2.projectPoints(
            corners, turn.as_rotvec(), np.array([0.05, -0.03, 0.6]), LENS.matrix, np.array(LENS.distortion)
        )
        pose, error = camera_poses(corners, pixels.reshape(-1, 2), LENS)[0]
        assert error < 1e-3
        distance, angle = errors(pose, pose_of([0.05, -0.03, 0.6], turn))
        assert distance < 1e-5
        assert angle < 1e-4


def test_upright_fit_is_exact_without_noise_and_refuses_tilt():
    corners = np.concatenate([tag.corners_in_object() for tag in SOCKET_TAGS["socket"]])
    eye = pose_of([1.2, 0.1, 0.6], Rotation.from_euler("xyz", [-2.2, 0.0, 1.5]))
    truth = pose_of([0.5, 0.1, 0.02], Rotation.from_euler("z", 0.4))
    in_camera = (
        Rotation.from_quat(eye[3:]).inv().apply(Rotation.from_quat(truth[3:]).apply(corners) + truth[:3] - eye[:3])
    )
    pixels = LENS.project(in_camera)
    start = pose_of([0.52, 0.09, 0.0], Rotation.from_euler("xyz", [0.2, -0.1, 0.6]))
    pose, error = fit_upright(start, eye, corners, pixels, LENS)
    assert error < 1e-6
    assert max(errors(pose, truth)) < 1e-6
    np.testing.assert_array_equal(pose[3:5], 0.0)


def test_an_object_out_of_view_keeps_its_last_pose_and_time(twin, camera):
    twin.place("socket", pose_of([0.5, 0.0, 0.0], Rotation.identity()))
    tracker = tracker_of(camera)
    assert tracker.poses()["socket"].time_s == 0.0
    before = tracker.poses()["socket"]
    twin.place("socket", pose_of([0.5, 0.0, -1.0], Rotation.identity()))  # below the table
    twin.advance(0.2)
    after = tracker.poses()["socket"]
    assert after.time_s == before.time_s
    np.testing.assert_array_equal(after.pose, before.pose)
    assert "none of its tags (0, 1, 2, 3) in view" in tracker.report()
    assert "tags in view: none" in tracker.report()
    twin.reset()  # the clock begins anew: what was seen before is forgotten
    twin.place("socket", pose_of([0.5, 0.0, -1.0], Rotation.identity()))
    assert tracker.poses() == {}


def test_an_unseen_object_is_not_reported(twin, camera):
    twin.place("socket", pose_of([0.5, 0.0, -1.0], Rotation.identity()))
    assert tracker_of(camera).poses() == {}


def test_wrong_size_on_paper_is_refused_by_reprojection(twin, camera):
    """One tag printed at half size contradicts the other three."""
    wrong = {"socket": (*SOCKET_TAGS["socket"][:1], Tag(1, 0.02, SOCKET_TAGS["socket"][1].pose), *[
        Tag(tag.id, 0.02, tag.pose) for tag in SOCKET_TAGS["socket"][2:]
    ])}  # fmt: skip
    tracker = TagTracker(camera, camera.intrinsics, wrong, camera.pose_in_base())
    twin.place("socket", pose_of([0.5, 0.0, 0.0], Rotation.identity()))
    assert tracker.poses() == {}
    assert "max_reprojection_px" in tracker.report()


def test_a_camera_that_fails_is_not_hidden(twin, camera, monkeypatch):
    tracker = tracker_of(camera)

    def dead():
        raise StaleStateError("old picture")

    monkeypatch.setattr(camera, "read", dead)
    with pytest.raises(StaleStateError):
        tracker.poses()


def test_mistakes_in_the_layout(camera):
    lens, place = camera.intrinsics, camera.pose_in_base()
    for layout, config, message in (
        ({"a": (Tag(1, 0.04),), "b": (Tag(1, 0.04),)}, None, "Tag 1 is on 'a' and on 'b'"),
        ({"a": ()}, None, "'a' wears no tags"),
        ({"a": (Tag(1000, 0.04),)}, None, "Tag 1000 of 'a' is not in DICT_APRILTAG_36h11: 0 to 586"),
        ({"a": (Tag(1, 0.0),)}, None, "size_m must be positive"),
        ({"a": (Tag(1, 0.04),)}, TagTrackerConfig(upright=("b",)), "upright names b"),
        ({"a": (Tag(1, 0.04),)}, TagTrackerConfig(dictionary="DICT_36"), "No tag dictionary"),
    ):
        with pytest.raises(ConfigError, match=message):
            TagTracker(camera, lens, layout, place, config)
    with pytest.raises(ConfigError, match="for 128 x 128 pictures, the camera gives 640 x 480"):
        TagTracker(camera, CameraIntrinsics.from_fovy(45.0, 128, 128), {"a": (Tag(1, 0.04),)}, place)


def test_other_dictionaries(twin):
    """ArUco's 4x4 tags on the same plates."""
    tagged = Twin(load_arm("fr3"), with_tags(PegInsert().build, SOCKET_TAGS, "DICT_4X4_50"))
    camera = TwinCamera(tagged, "front", 480, 640)
    truth = pose_of([0.52, 0.03, 0.0], Rotation.from_euler("z", -0.2))
    tagged.place("socket", truth)
    config = TagTrackerConfig(dictionary="DICT_4X4_50", upright=("socket",))
    seen = tracker_of(camera, config).poses()["socket"]
    camera.close()
    assert errors(seen.pose, truth)[0] < 0.0015


def smooth(**changes):
    given = {"smoothing_s": 0.1, "gate_m": 0.02, "gate_rad": 0.2, "gate_readings": 3, "forget_s": 0.5}
    return PoseFilter(**{**given, **changes})


def test_filter_follows_with_its_time_constant():
    """A step of 1 cm: after one time constant 1 - 1/e of it is there, of a rotation too."""
    tracked = smooth()
    tracked.update(0.0, IDENTITY)
    turned = pose_of([0.01, 0.0, 0.0], Rotation.from_euler("z", 0.1))
    for k in range(1, 11):
        assert tracked.update(0.01 * k, turned)
    assert tracked.pose[0] == pytest.approx(0.01 * (1.0 - np.exp(-1.0)))
    assert Rotation.from_quat(tracked.pose[3:]).magnitude() == pytest.approx(0.1 * (1.0 - np.exp(-1.0)))


def test_one_wild_reading_is_kept_out_and_three_that_agree_are_believed():
    tracked, away = smooth(), pose_of([0.3, 0.0, 0.0], Rotation.identity())
    tracked.update(0.0, IDENTITY)
    assert not tracked.update(0.1, away)
    assert tracked.update(0.2, IDENTITY)
    np.testing.assert_array_equal(tracked.pose, IDENTITY)
    for k, believed in enumerate((False, False, True)):
        assert tracked.update(0.3 + 0.1 * k, away) is believed
    np.testing.assert_array_equal(tracked.pose, away)
    assert tracked.update(2.0, IDENTITY)  # unseen for longer than forget_s: it may be anywhere
    np.testing.assert_array_equal(tracked.pose, IDENTITY)


def test_two_wild_readings_that_disagree_are_two_wild_readings():
    tracked = smooth(gate_readings=2)
    tracked.update(0.0, IDENTITY)
    assert not tracked.update(0.1, pose_of([0.3, 0.0, 0.0], Rotation.identity()))
    assert not tracked.update(0.2, pose_of([0.0, 0.3, 0.0], Rotation.identity()))
    np.testing.assert_array_equal(tracked.pose, IDENTITY)


def test_noise_shrinks():
    """White noise through a first-order low-pass of ten samples: variance falls about 20-fold (1 / (2 * 10))."""
    rng, tracked = np.random.default_rng(0), smooth(smoothing_s=0.3)
    kept = []
    for k in range(2000):
        tracked.update(k * 0.03, pose_of(0.001 * rng.normal(size=3), Rotation.identity()))
        kept.append(tracked.pose[:3])
    assert np.var(kept[100:]) < 0.1 * 0.001**2


def test_the_same_picture_is_looked_at_once(twin, camera, monkeypatch):
    twin.place("socket", pose_of([0.5, 0.0, 0.0], Rotation.identity()))
    frame = camera.read()
    paper = Paper(Frame(1.0, frame.image))
    tracker = TagTracker(paper, camera.intrinsics, SOCKET_TAGS, camera.pose_in_base())
    twin_pose = tracker.poses()["socket"]
    monkeypatch.setattr(tracker, "_look", lambda _: pytest.fail("looked again"))
    assert tracker.poses()["socket"] is twin_pose


def measure(height, width, *, upright=True, upsample=1, count=100, noise=0.0):
    """Print what the tracker is worth on rendered sockets: a line for docs and reports."""
    rng = np.random.default_rng(0)
    twin = Twin(load_arm("fr3"), with_tags(PegInsert().build, SOCKET_TAGS))
    camera = TwinCamera(twin, "front", height, width)
    config = TagTrackerConfig(upright=("socket",) if upright else (), upsample=upsample)
    place, lens = camera.pose_in_base(), camera.intrinsics
    distances, angles, misses, milliseconds = [], [], [], []
    for _ in range(count):
        truth = socket_pose(rng)
        twin.place("socket", truth)
        image = camera.read().image
        if noise:
            image = np.clip(image + rng.normal(0.0, noise, image.shape), 0, 255).astype(np.uint8)
        paper = Paper(Frame(0.0, image))
        paper.height, paper.width = height, width
        tracker = TagTracker(paper, lens, SOCKET_TAGS, place, config)
        start = time.perf_counter()
        seen = tracker.poses().get("socket")
        milliseconds.append(1e3 * (time.perf_counter() - start))
        if seen is not None:
            distance, angle = errors(seen.pose, truth)
            distances.append(1e3 * distance)
            angles.append(np.degrees(angle))
            misses.append(seen.reprojection_px)
    camera.close()

    def spread(values):
        return "{:.2f} / {:.2f} / {:.2f}".format(*np.percentile(values, [50, 95, 100]))

    print(  # noqa: T201
        f"{width}x{height} upsample {upsample} upright {upright!s:5} noise {noise:g}: seen {len(distances)}/{count}, "
        f"p50/p95/max position {spread(distances)} mm, rotation {spread(angles)} deg, "
        f"reprojection {spread(misses)} px, {np.median(milliseconds):.1f} ms a picture"
    )


if __name__ == "__main__":
    for size in ((480, 640), (720, 1280)):
        for stands in (True, False):
            measure(*size, upright=stands)
        measure(*size, noise=5.0)
        measure(*size, upsample=2)
