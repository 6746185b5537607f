"""Tags on the twin: what is glued to an object on metal, textured plates that touch nothing here."""

from collections.abc import Callable

import cv2
import mujoco
import numpy as np

from drivers.tag_layout import DICTIONARY, Tag, TagLayout, markers
from drivers.twin.scene import Scene
from robot_rl.errors import ConfigError

__all__ = ["add_tags", "with_tags"]

TEXELS_PER_MODULE = 16
MARGIN_MODULES = 1  # white around the black square, without which no detector finds it
THICKNESS = 0.0004  # [m]


def with_tags(
    build: Callable[[Scene], None], layout: TagLayout, dictionary: str = DICTIONARY
) -> Callable[[Scene], None]:
    """A task's `build` whose objects wear tags as well; the scene without them is not changed.

    Args:
        build: Adds the props.
        layout: Tags of bodies that `build` adds.
        dictionary: One of `cv2.aruco`'s.
    """

    def build_and_tag(scene: Scene) -> None:
        build(scene)
        add_tags(scene, layout, dictionary)

    return build_and_tag


def add_tags(scene: Scene, layout: TagLayout, dictionary: str = DICTIONARY) -> None:
    """Give bodies of a scene their tags.

    Raises:
        ConfigError: No such body or dictionary, or a tag that is not in it.
    """
    for name, tags in layout.items():
        body = scene.spec.body(name)
        if body is None:
            raise ConfigError(
                f"The scene has no body {name!r} to wear tags; it has {[b.name for b in scene.spec.bodies]}."
            )
        for tag in tags:
            _add_plate(scene.spec, body, tag, marker_image(tag.id, dictionary))


def marker_image(tag_id: int, dictionary: str) -> np.ndarray:
    """A tag with its white margin, uint8, square, one channel. Raises ConfigError."""
    known = markers(dictionary)
    count = len(known.bytesList)
    if not 0 <= tag_id < count:
        raise ConfigError(f"Tag {tag_id} is not in {dictionary}, which has 0 to {count - 1}.")
    inner = (known.markerSize + 2) * TEXELS_PER_MODULE
    margin = MARGIN_MODULES * TEXELS_PER_MODULE
    image = np.full((inner + 2 * margin, inner + 2 * margin), 255, np.uint8)
    image[margin:-margin, margin:-margin] = cv2.aruco.generateImageMarker(known, tag_id, inner)
    return image


def _add_plate(spec: mujoco.MjSpec, body: mujoco.MjsBody, tag: Tag, image: np.ndarray) -> None:
    """A thin box with the picture on its upper face, of which the plate's origin is the middle."""
    name = f"tag{tag.id}"
    texels, inner = image.shape[0], image.shape[0] - 2 * MARGIN_MODULES * TEXELS_PER_MODULE
    half = 0.5 * tag.size_m * texels / inner
    texture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=texels, height=texels, nchannel=3)
    texture.data = np.repeat(image[:, :, None], 3, axis=2).tobytes()
    material = spec.add_material(name=name, specular=0.0, shininess=0.0)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    corners = [(-half, half), (half, half), (half, -half), (-half, -half)]
    top = [(x, y, 0.0) for x, y in corners]
    bottom = [(x, y, -THICKNESS) for x, y in corners]
    faces = [(0, 2, 1), (0, 3, 2), (4, 5, 6), (4, 6, 7)]
    faces += [f for a, b in ((0, 1), (1, 2), (2, 3), (3, 0)) for f in ((a, b, b + 4), (a, b + 4, a + 4))]
    edge = 0.5 / texels  # the sides show the margin's white
    on_picture = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    spec.add_mesh(
        name=name, uservert=np.array(top + bottom).ravel(), userface=np.array(faces).ravel(),
        usertexcoord=np.array(on_picture + [(edge, edge)] * 4).ravel(),
    )  # fmt: skip
    x, y, z, qx, qy, qz, qw = tag.pose
    body.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, material=name, pos=[x, y, z],
        quat=[qw, qx, qy, qz], contype=0, conaffinity=0, mass=0.0,
    )  # fmt: skip
