"""Steps in memory, and the n-step batches drawn from them.

Rows are laid out as in the episode store: an episode of T steps is T + 1 rows, the last with the final observation
alone, in a ring of preallocated arrays. Each image is kept once, in its own type. A row is a transition when the row
after it continues its episode, so nothing crosses an episode's edge; the newest step of an open episode becomes one
with the step that follows it. When the ring is full the oldest row makes way, and its transition with it. A ring of
pictures that is larger than `RAM_BYTES` lies in an unnamed file, and the operating system keeps what is used in memory.
A history is put together when it is drawn, from rows that are there once.
"""

import tempfile
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from robot_rl.agents.batch import Batch
from robot_rl.errors import ConfigError, ShapeError, StoreError
from robot_rl.observation import ObservationLayout, check_array
from robot_rl.replay.gather import gather, history_rows
from robot_rl.replay.source import store_blocks
from robot_rl.vision.perception import Perception

if TYPE_CHECKING:
    from robot_rl.store import EpisodeStore


RAM_BYTES = 8 * 2**30


class ReplayBuffer:
    """The newest `capacity` rows. Not thread-safe.

    Attributes:
        layout: Where each leaf of an observation goes in the flat vector.
        capacity: Rows held at most; final rows count.
        history: Observations drawn together, see `Batch`.
        rows: Rows ever added.
        observation_space: Space of the observations added.
        action_space: Space of the actions added.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        capacity: int,
        perception: Perception | None = None,
        history: int = 1,
    ) -> None:
        """Allocate the ring; memory is touched only as rows arrive.

        Args:
            observation_space: Box, or Dict of Box and Dict.
            action_space: Box of one dimension.
            capacity: Rows.
            perception: What pictures become before they are kept; None keeps them as they are.
            history: Observations drawn together, see `Batch`.

        Raises:
            ConfigError: A space of another kind than Box or Dict of Box, or a capacity below 2 rows.
        """
        if not isinstance(action_space, gym.spaces.Box) or len(action_space.shape) != 1:
            raise ConfigError(f"The action space is {action_space}; replay holds actions of a Box of one dimension.")
        if capacity < 2:
            raise ConfigError(f"A replay capacity of {capacity} rows holds no transition; 2 is the least.")
        self.observation_space, self.action_space = observation_space, action_space
        self.layout = ObservationLayout(observation_space)
        self.capacity, self.history = capacity, history
        self.rows = 0
        self._observation = np.empty((capacity, self.layout.size), np.float32)
        self._action = np.empty((capacity, action_space.shape[0]), np.float32)
        self._reward = np.empty(capacity, np.float32)
        self._terminated = np.empty(capacity, np.bool_)
        self._linked = np.zeros(capacity, np.bool_)  # the next row continues this one's episode
        self._drawn = np.zeros(capacity, np.bool_)  # and the two are a transition
        self.perception = perception
        self._images: dict[str, NDArray[Any]] = {}  # camera to (capacity, shifts, ...)
        for name in self.layout.images:
            shape = perception.shapes[name] if perception else (1, *self.layout.leaves[name].shape)
            self._images[name] = _allocate((capacity, *shape), np.dtype(self.layout.leaves[name].dtype))
        self._valid = np.empty(capacity, np.int64)  # ring positions of the transitions, oldest first, itself a ring
        self._valid_start = 0
        self._valid_count = 0
        self._newest: tuple[object, ...] | None = None  # whose the newest row is, if it can be continued
        self._current: dict[str, NDArray[Any]] | None = None
        self._serial = 0
        self._first_pictures: dict[str, int] = {}  # camera to a checksum of what began the newest row's episode

    def __len__(self) -> int:
        """Number of transitions that can be drawn."""
        return self._valid_count

    @property
    def nbytes(self) -> int:
        """Bytes of the whole ring, pictures and all."""
        flags = (self._terminated, self._linked, self._drawn)
        own = (self._observation, self._action, self._reward, *flags, self._valid)
        return sum(array.nbytes for array in (*own, *self._images.values()))

    def begin_episode(self, observation: object) -> None:
        """Begin an episode; one still open is closed with its last observation as it is.

        Raises:
            ShapeError: The observation does not fit the space.
        """
        leaves = self._copy(observation)
        if self._current is not None and self._newest == ("live", self._serial):
            self._push_final()
        self._serial += 1
        self._current = leaves

    def add(self, action: object, reward: float, terminated: bool, truncated: bool, next_observation: object) -> None:
        """Add the step taken from the current observation.

        Args:
            action: As executed, shape (A,).
            reward: Reward of the step.
            terminated: The task ended there: its value is not bootstrapped.
            truncated: The episode was cut there: bootstrapped from `next_observation`.
            next_observation: What the step led to.

        Raises:
            ShapeError: Something of the wrong shape or type or not finite. Nothing is added.
            StoreError: No episode was begun.
        """
        if self._current is None:
            raise StoreError("No episode is open in the replay buffer. Call begin_episode first.")
        action = check_array("action", action, self._action.shape[1:], np.dtype(np.float32))
        if not np.isfinite(reward):
            raise ShapeError(f"The reward is {reward}: it must be finite.", reward=reward)
        leaves = self._copy(next_observation)
        self._push_live(self._current, action, reward, terminated)
        self._newest = ("live", self._serial)
        self._current = leaves
        if terminated or truncated:
            self._push_final()

    def _copy(self, observation: object) -> dict[str, NDArray[Any]]:
        return {name: value.copy() for name, value in self.layout.split(observation).items()}

    def _push_final(self) -> None:
        assert self._current is not None
        self._push_live(self._current, np.zeros(self._action.shape[1], np.float32), 0.0, False)
        self._newest = self._current = None

    def _push_live(
        self, leaves: Mapping[str, NDArray[Any]], action: NDArray[Any], reward: float, terminated: bool
    ) -> None:
        rows = {**leaves, "action": action, "reward": np.float32(reward), "terminated": np.bool_(terminated)}
        continues = np.array([self._newest == ("live", self._serial)])
        self._push({name: np.asarray(value)[None] for name, value in rows.items()}, continues)

    def _push(self, rows: Mapping[str, NDArray[Any]], continues: NDArray[np.bool_]) -> None:
        """Add rows; `continues` says of each whether it continues the row before it. At most `capacity` rows."""
        images = {name: self._remember(name, rows[name], continues) for name in self._images}
        observation = self.layout.flatten_columns(rows, (len(continues),))
        self._write((observation, rows["action"], rows["reward"], rows["terminated"]), images, continues)

    def _remember(self, camera: str, pictures: NDArray[Any], continues: NDArray[np.bool_]) -> NDArray[Any]:
        """What is kept of pictures; with a history, all of an episode are shifted alike."""
        if self.perception is None:
            return pictures[:, None]
        if self.history == 1:
            return self.perception.remember(camera, pictures)
        alike: list[int] = []
        for picture, goes_on in zip(pictures, continues, strict=True):
            if not goes_on:
                self._first_pictures[camera] = zlib.crc32(picture.tobytes())
            alike.append(self._first_pictures[camera])
        return self.perception.remember(camera, pictures, alike)

    def _write(
        self,
        vectors: tuple[NDArray[Any], ...],
        images: Mapping[str, NDArray[Any]],
        continues: NDArray[np.bool_],
        ahead: int = 0,
    ) -> None:
        """Add rows; of them the first `ahead` are there for the history of others and begin no transition."""
        count = len(continues)
        if count == self.capacity:  # the row before the first of these is overwritten too
            continues = np.concatenate([[False], continues[1:]])
        where = (self.rows + np.arange(count)) % self.capacity
        self._forget(where)
        own = (self._observation, self._action, self._reward, self._terminated)
        for array, values in zip((*own, *self._images.values()), (*vectors, *images.values()), strict=True):
            array[where] = values
        self._linked[where] = self._drawn[where] = False
        before = ((where - 1) % self.capacity)[continues]
        self._linked[before] = True
        before = before[ahead:]
        self._drawn[before] = True
        slots = (self._valid_start + self._valid_count + np.arange(len(before))) % self.capacity
        self._valid[slots] = before
        self._valid_count += len(before)
        self.rows += count

    def copy_rows(self, source: "ReplayBuffer", first: int, stop: int) -> None:
        """Add rows of one episode of a buffer of the same spaces, pictures as kept there; the last leads nowhere.

        What their history needs of the rows before them comes along, and is no transition here.

        Args:
            source: Where they lie.
            first: The first row, as `source.rows` counts; what was overwritten since is left out.
            stop: One past the last.
        """
        oldest = max(source.rows - source.capacity, stop - self.capacity, 0)
        first = max(first, oldest)
        if stop - first < 2:
            return
        begin = first
        while begin > max(oldest, first - self.history + 1) and source._linked[(begin - 1) % source.capacity]:
            begin -= 1
        where = np.arange(begin, stop) % source.capacity
        vectors = (source._observation, source._action, source._reward, source._terminated)
        images = {name: array[where] for name, array in source._images.items()}
        continues = np.arange(begin, stop) > begin
        self._write(tuple(array[where] for array in vectors), images, continues, ahead=first - begin)
        self._newest = None

    def _forget(self, where: NDArray[np.int64]) -> None:
        """Drop the transitions of rows about to be overwritten: always the oldest ones."""
        overwritten = int(self._drawn[where].sum()) if self.rows + len(where) > self.capacity else 0
        self._valid_start = (self._valid_start + overwritten) % self.capacity
        self._valid_count -= overwritten

    def extend_from_store(
        self, store: "EpisodeStore", start: int = 0, stop: int | None = None, *, reward: str = "reward"
    ) -> int:
        """Add committed rows of a store; consecutive calls continue episodes, so a learner can tail a store.

        Args:
            store: Where the rows lie; its spaces must be this buffer's.
            start: First row.
            stop: One past the last row; all committed ones when None.
            reward: Column the reward is taken from, for example that of a labeller.

        Returns:
            The row to go on from: `stop`.

        Raises:
            ConfigError: The store is of another task.
            StoreError: The rows are not committed.
            ShapeError: A step's reward is not finite, for example not labelled yet.
        """
        store.check_spaces(self.observation_space, self.action_space)
        stop = store.rows if stop is None else stop
        if stop - start > self.capacity:
            start = stop - self.capacity
        for block in store_blocks(store, self.layout, start, stop, reward=reward, longest=self.capacity):
            self._push(block.rows, block.continues(self._newest))
            self._newest = block.newest
        return stop

    def empty_batch(self, batch_size: int) -> Batch:
        """Return memory for `sample(out=...)`."""
        size, actions = self.history * self.layout.size, self._action.shape[1]
        vectors = (
            torch.empty(batch_size, size), torch.empty(batch_size, actions), torch.empty(batch_size),
            torch.empty(batch_size), torch.empty(batch_size, size), torch.empty(batch_size),
        )  # fmt: skip
        if not self._images:
            return Batch(*vectors)
        images, following = (
            {
                name: torch.from_numpy(
                    np.empty((batch_size, self.history * kept.shape[2], *kept.shape[3:]), kept.dtype)
                )
                for name, kept in self._images.items()
            }
            for _ in range(2)
        )
        return Batch(*vectors, images=images, next_images=following)

    def sample(
        self,
        batch_size: int,
        rng: np.random.Generator,
        *,
        n_step: int = 1,
        gamma: float = 0.99,
        out: Batch | None = None,
    ) -> Batch:
        """Draw transitions uniformly, with replacement. The same rng state and rows give the same batch.

        Args:
            batch_size: Number B of transitions.
            rng: Source of the draw.
            n_step: Rewards summed at most; fewer where the episode ends or its newest row is reached.
            gamma: Discount per step.
            out: A CPU batch to write into and return, overwriting what the last call with it returned. Fresh memory,
                safe to keep, when None.

        Raises:
            StoreError: There is no transition to draw.
        """
        out = self.empty_batch(batch_size) if out is None else out
        self.sample_into(0, batch_size, rng, n_step, gamma, out, 0.0)
        return out

    def sample_into(
        self,
        start: int,
        stop: int,
        rng: np.random.Generator,
        n_step: int,
        gamma: float,
        out: Batch,
        is_demo: float,
    ) -> NDArray[np.int64]:
        """Draw as `sample` does, into items `start` to `stop` of a batch, with its `is_demo` set.

        Returns:
            Where in the ring they lie, shape (stop - start,).

        Raises:
            StoreError: There is no transition to draw.
        """
        if self._valid_count == 0:
            raise StoreError("The replay buffer holds no transition yet. Add steps or demonstrations first.")
        if n_step < 1:
            raise ConfigError(f"n_step is {n_step}; it is at least 1.", n_step=n_step)
        drawn = rng.integers(0, self._valid_count, stop - start)
        drawn += self._valid_start
        rows = self._valid.take(drawn, mode="wrap")
        observation, action, reward, discount, following, demo = (tensor.numpy()[start:stop] for tensor in out[:6])
        demo[:] = is_demo
        ends = gather(
            rows,
            n_step,
            gamma,
            self._observation,
            self._action,
            self._reward,
            self._terminated,
            self._linked,
            observation,
            action,
            reward,
            discount,
            following,
        )
        if self.history == 1 and not self._images:
            return rows
        stacks = [history_rows(newest, self.history, self._linked) for newest in (rows, ends)]
        if self.history > 1:  # `gather` has written the newest alone
            for taken, into in zip(stacks, (observation, following), strict=True):
                self._observation.take(taken, axis=0, mode="clip", out=into.reshape(*taken.shape, self.layout.size))
        for name, stored in self._images.items():
            assert out.images is not None
            assert out.next_images is not None
            shifts = stored.shape[1]
            pictures = stored.reshape(-1, *stored.shape[2:])
            for taken, into in zip(stacks, (out.images, out.next_images), strict=True):
                chosen = taken * shifts + rng.integers(0, shifts, (len(taken), 1))
                place = into[name].numpy()[start:stop].reshape(*taken.shape, *stored.shape[2:])
                pictures.take(chosen, axis=0, mode="clip", out=place)
        return rows

    def sample_chunks(self, rng: np.random.Generator, length: int, out: Batch) -> Batch:
        """Draw transitions as `sample` does into `out`, and with each the actions that followed in its episode.

        Args:
            rng: Source of the draw.
            length: Number H of actions.
            out: A CPU batch to write into.

        Returns:
            `out` with its `chunks`.

        Raises:
            StoreError: There is no transition to draw.
        """
        rows = self.sample_into(0, len(out.reward), rng, 1, 1.0, out, 1.0)
        following = (rows[:, None] + np.arange(length)) % self.capacity
        there = np.logical_and.accumulate(self._linked[following], axis=1)
        chunks = np.where(there[..., None], self._action[following], np.float32(0))  # beyond it lies anything
        return out._replace(chunks=torch.from_numpy(chunks), chunks_there=torch.from_numpy(there).float())


def _allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if np.prod(shape, dtype=np.int64) * dtype.itemsize <= RAM_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="robot-rl-replay-") as file:  # the mapping outlives the name
        return np.memmap(file, dtype, "w+", shape=shape)


def sample_mixed(
    demo: ReplayBuffer,
    online: ReplayBuffer,
    batch_size: int,
    rng: np.random.Generator,
    *,
    demo_fraction: float = 0.5,
    n_step: int = 1,
    gamma: float = 0.99,
    out: Batch | None = None,
) -> Batch:
    """Draw a batch from demonstrations and online steps, as RLPD does; demonstrations come first in it.

    Args:
        demo: Demonstrations; while it is empty the whole batch is online.
        online: Steps of this run; while it is empty the whole batch is demonstrations.
        batch_size: Number B of transitions.
        rng: Source of the draw.
        demo_fraction: Share of demonstrations, rounded to a whole number of transitions.
        n_step: As for `ReplayBuffer.sample`, like the rest.
        gamma: Discount per step.
        out: Batch to write into.

    Raises:
        StoreError: Both are empty.
        ConfigError: The fraction is outside [0, 1].
    """
    if not 0 <= demo_fraction <= 1:
        raise ConfigError(f"demo_fraction is {demo_fraction}; it lies in [0, 1].", demo_fraction=demo_fraction)
    split = round(demo_fraction * batch_size)
    if len(online) == 0:
        split = batch_size
    if len(demo) == 0:
        split = 0
    out = online.empty_batch(batch_size) if out is None else out
    if split > 0:
        demo.sample_into(0, split, rng, n_step, gamma, out, 1.0)
    if split < batch_size:
        online.sample_into(split, batch_size, rng, n_step, gamma, out, 0.0)
    return out
