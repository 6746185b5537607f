"""The node programs of this room: what `ros2 run robot_rl NAME` starts."""
