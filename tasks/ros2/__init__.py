"""The node programs that know tasks and runs: what `ros2 run robot_rl NAME` starts."""
