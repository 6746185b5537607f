# Where policies are learnt: a GPU, and no ROS. It speaks to ROS 2 over DDS by itself (the extra `ros`).
#   docker build -f docker/learner.Dockerfile -t robot-rl-learner .
# Torch's wheels bring CUDA's libraries; of NVIDIA's image only the base is needed, which asks for a driver new enough.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

# hadolint ignore=DL3008  # the distribution keeps no older versions to pin
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1 libgl1-mesa-dri python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The distribution's Python is not pip's to change (PEP 668).
RUN python3 -m venv /opt/robot_rl \
    && useradd --create-home learner
ARG PIP_EXTRA_INDEX_URL
COPY constraints.txt /src/
RUN /opt/robot_rl/bin/pip install --no-cache-dir -c /src/constraints.txt torch
COPY . /src/
RUN /opt/robot_rl/bin/pip install --no-cache-dir -c /src/constraints.txt '/src[ros,log]'

# hadolint ignore=DL3066  # the name is the image's own
USER learner
WORKDIR /home/learner
# Belongs to the user, and so does a volume that is mounted here.
RUN mkdir runs

ENV PATH=/opt/robot_rl/bin:$PATH ROBOT_RL_ROS_TRANSPORT=dds
CMD ["robot-rl", "--help"]
