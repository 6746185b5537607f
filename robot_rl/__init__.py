"""Learning: tensors, episodes, rewards and training loops. Knows Gymnasium, no hardware, no ROS, no MuJoCo."""
