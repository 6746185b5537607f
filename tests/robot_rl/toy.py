"""A point on a line or a plane that is to be brought to the origin: an environment with a known optimum."""

import gymnasium as gym
import numpy as np

STEP = 0.25
HORIZON = 12


class Point(gym.Env):
    """Position in [-1, 1]^n; an action moves it by up to `STEP` per axis. Within 0.15 of the origin: success.

    The best return is 1, and from a distance d (largest axis) it takes ceil((d - 0.15) / STEP) steps.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own convention)

    def __init__(self, dimensions=1, noise=0.0, render_mode=None, fails_at=None, drift=0.0):
        self.observation_space = gym.spaces.Box(-2.0, 2.0, (dimensions,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (dimensions,), np.float32)
        self.return_range = (0.0, 1.0)
        self.instruction = "go to the origin"
        self.noise, self.render_mode, self.fails_at, self.drift = noise, render_mode, fails_at, drift
        self.position, self.total = np.zeros(dimensions), 0
        self.resets = 0

    def expert(self, rng, noise):
        env = self

        class Script:
            def act(self, observation, instruction=""):
                wanted = -env.position / STEP + rng.normal(0.0, noise, env.position.shape)
                return np.clip(wanted, -1.0, 1.0).astype(np.float32)

        return Script()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets += 1
        start = self.np_random.uniform(0.4, 1.0, self.position.shape)
        self.position = start * self.np_random.choice([-1.0, 1.0], self.position.shape) + self.drift * self.resets
        return self._observe(), {}

    def step(self, action):
        self.total += 1
        if self.total == self.fails_at:
            raise RuntimeError("a bug in the environment")
        jitter = self.noise * self.np_random.normal(size=self.position.shape)
        self.position = np.clip(self.position + STEP * np.asarray(action, np.float64) + jitter, -1.5, 1.5)
        success = bool(np.abs(self.position).max() < 0.15)
        return self._observe(), float(success), success, False, {"success": success}

    def render(self):
        picture = np.zeros((32, 32, 3), np.uint8)
        column = int(np.clip((self.position[0] + 1.5) / 3.0 * 31, 0, 31))
        picture[:, column] = 255
        return picture

    def _observe(self):
        return self.position.astype(np.float32)


class Glide(Point):
    """A point that keeps its velocity, which is not seen: an action changes it by up to `PUSH` a step.

    At rest within 0.1 of the origin: success. A feedback of the position alone never settles: it maps (position,
    velocity) to where they are a step later with determinant 1, so it contracts nothing. Two positions are enough.
    """

    PUSH = 0.2

    def __init__(self, **options):
        super().__init__(**options)
        self.velocity = np.zeros_like(self.position)

    def expert(self, rng, noise):
        env = self

        class Script:
            def act(self, observation, instruction=""):
                wanted = (-0.5 * env.position - env.velocity) / env.PUSH + rng.normal(0.0, noise, env.position.shape)
                return np.clip(wanted, -1.0, 1.0).astype(np.float32)

        return Script()

    def reset(self, *, seed=None, options=None):
        self.velocity[:] = 0.0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.velocity += self.PUSH * np.asarray(action, np.float64)
        self.position = np.clip(self.position + self.velocity, -2.0, 2.0)
        success = bool(max(np.abs(self.position).max(), np.abs(self.velocity).max()) < 0.1)
        return self._observe(), float(success), success, False, {"success": success}


class Taught(Point):
    """A person has the third and the fourth step of every episode, and pushes right."""

    def reset(self, *, seed=None, options=None):
        self.taken = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.taken += 1
        if self.taken not in (3, 4):
            return super().step(action)
        own = np.full(self.action_space.shape, 0.75, np.float32)
        observation, reward, terminated, truncated, info = super().step(own)
        return observation, reward, terminated, truncated, info | {"source": "human", "executed_action": own}


def register():
    if "toy/Taught-v0" not in gym.registry:
        gym.register("toy/Taught-v0", entry_point=Taught, max_episode_steps=HORIZON, disable_env_checker=True)
    if "toy/Glide-v0" not in gym.registry:
        gym.register("toy/Glide-v0", entry_point=Glide, max_episode_steps=2 * HORIZON, disable_env_checker=True)
    if "toy/Point-v0" not in gym.registry:
        gym.register("toy/Point-v0", entry_point=Point, max_episode_steps=HORIZON, disable_env_checker=True)
