"""ROS 2: its messages, a node over either of two transports, and our devices as ROS devices and the other way round."""
