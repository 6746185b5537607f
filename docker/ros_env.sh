#!/usr/bin/env bash
# Run a command in an environment where ROS 2 is sourced and knows robot_rl: ros_env ros2 topic list
set -e # neither -u nor pipefail: ROS's own files stand neither
# shellcheck source=/dev/null
source /opt/ros/jazzy/setup.bash --
# After it, so that these come first: `ros2` finds the package by the one, and its programs their Python by the other.
export AMENT_PREFIX_PATH="/opt/robot_rl:$AMENT_PREFIX_PATH"
export PATH="/opt/robot_rl/bin:$PATH"
exec "$@"
