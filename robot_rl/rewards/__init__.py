"""Rewards that are learnt: what success looks like, from frames a person marked."""

from robot_rl.rewards.classifier import SuccessClassifier
from robot_rl.rewards.frames import Frames, read_frames
from robot_rl.rewards.learned import LearnedReward

__all__ = ["Frames", "LearnedReward", "SuccessClassifier", "read_frames"]
