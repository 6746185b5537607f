# A robot's PC: ROS 2 Jazzy, the vendors' libraries, and robot-rl as a ROS package and a command.
#   docker build -f docker/robot.Dockerfile -t robot-rl-robot .
# Torch is the build that pip is set up for. --build-arg PIP_EXTRA_INDEX_URL=... may name an index of builds for the CPU
# alone, which spare gigabytes.
FROM ros:jazzy-ros-base-noble

# hadolint ignore=DL3008  # the distributions keep no older versions to pin
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        libegl1 libgl1 libgl1-mesa-dri libhidapi-hidraw0 python3-venv \
        ros-jazzy-control-msgs ros-jazzy-controller-manager-msgs ros-jazzy-rmw-cyclonedds-cpp \
    && rm -rf /var/lib/apt/lists/*

# The distribution's Python is not pip's to change (PEP 668). This venv sees what ROS's Python packages need beside it.
RUN python3 -m venv --system-site-packages /opt/robot_rl
ARG PIP_EXTRA_INDEX_URL
COPY constraints.txt /src/
RUN /opt/robot_rl/bin/pip install --no-cache-dir -c /src/constraints.txt torch
COPY . /src/
RUN /opt/robot_rl/bin/pip install --no-cache-dir -c /src/constraints.txt '/src[franka,ur,realsense,teleop,ros]'

COPY docker/ros_env.sh /usr/local/bin/ros_env

# Serial ports, cameras and their USB, joysticks and SpaceMouse.
RUN groupadd --force --system input \
    && useradd --create-home --groups dialout,video,plugdev,input robot
# hadolint ignore=DL3066  # the name is the image's own
USER robot
WORKDIR /home/robot
# Belongs to the user, and so does a volume that is mounted here.
RUN mkdir runs

ENV RMW_IMPLEMENTATION=rmw_cyclonedds_cpp
ENTRYPOINT ["ros_env"]
CMD ["ros2", "launch", "robot_rl", "sim.launch.py"]
