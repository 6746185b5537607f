"""The commented cell files that `robot-rl cells new` writes."""

__all__ = ["TEMPLATES"]

_REST = """
# Pictures, by name. The task's policy sees them as images/<name>. `robot-rl check-cell` lists what is plugged in.
cameras: {{}}
#  front:
#    driver: realsense            # realsense | opencv (with source: /dev/video0) | ros2 (source: /front/image_raw)
#    serial: "123456789012"       # on a label under the camera
#    width: 640
#    height: 480
#    fps: 30
#    crop: [80, 0, 480, 480]      # x, y, width, height; by default the largest middle square
#    exposure_us: 8000            # locked, so that pictures look the same tomorrow; leave out for automatic
#    white_balance_k: 4600

# What says where objects are, for tasks that learn from their poses (peg_insert, pick_cube, reach).
tracker:
  driver: none                    # none | tags (AprilTags seen by one of the cameras) | ros2 (frames in tf)
#  driver: tags
#  camera: front
#  camera_pose_base: [1.0, 0.0, 0.6, -0.63, -0.63, 0.32, 0.32]   # position [m], quat_xyzw; its z looks forward, y down
#  objects:
#    socket:
#      - {{id: 0, size_m: 0.04, pose: [0.0, 0.08, 0.04, 0, 0, 0, 1]}}   # edge of the black square, tag in the object

# Tightens the task's own limits for this table; never widens them. Metres in `base`, m/s and rad/s, N and N m.
limits:
  position_low: [0.25, -0.4, 0.01]
  position_high: [0.75, 0.4, 0.6]
  max_speed: [0.5, 2.0]
  max_wrench: [40.0, 10.0]

# How long the arm waits for commands before it holds, and before its control is closed [s].
watchdog:
  hold_after_s: 0.3
  stop_after_s: 5.0

# Episodes that may end in a fault (reflex, protective stop, lost camera), one after another, before training stops.
faults_in_a_row: 3
"""

_FRANKA = """# A cell with a Franka Research 3. Check it with: robot-rl check-cell {path}
# Rehearse it without the robot: robot-rl emulate fr3 --task peg_insert, then any command with --rehearse.
arm:
  driver: {driver}                  # franka: our law at 1 kHz | franky: one in C++, for kernels without PREEMPT_RT
  host: 172.16.0.2                # the robot's address; Desk must have FCI activated
  home: [0.0, -0.041759, 0.0, -2.334272, 0.0, 2.292514, 0.785398]   # joints [rad] before the first episode
  # tcp_flange: [0, 0, 0.1034, 0, 0, -0.3826834, 0.9238795]         # the tool in the flange; by default the hand's
  # core: 3                       # a processor core for the 1 kHz loop alone (isolcpus=3)
  options: {{}}                     # load_kg: 0.3, load_centre: [0, 0, 0.05], collision: [60, 20, 60]

gripper:
  driver: franka_hand             # franka_hand | none (a fixed tool)
"""

_UR = """# A cell with a UR5e and a Robotiq 2F-85. Check it with: robot-rl check-cell {path}
# Rehearse it without the robot: robot-rl emulate ur5e --task peg_insert, then any command with --rehearse.
arm:
  driver: ur
  host: 192.168.1.10              # the robot's address; the tablet must be in remote control
  home: [-0.269864, -1.538540, 1.887982, -1.920238, -1.570796, -1.055262]   # joints [rad] before the first episode
  options: {{}}

gripper:
  driver: robotiq                 # robotiq | none (a fixed tool)
"""

_ROS2 = """# A cell whose arm runs in ROS 2 already (CRISP, ros2_control). Check it with: robot-rl check-cell {path}
# Such a robot without the metal: robot-rl emulate ros2 --task peg_insert, then any command with --rehearse.
arm:
  driver: ros2
  # home: [0.0, -0.041759, 0.0, -2.334272, 0.0, 2.292514, 0.785398]     # joints [rad] before the first episode
  options:
    model: fr3                    # fr3 | ur5e: joint limits to keep away from; leave out for another arm
    base_frame: base              # frame of current_pose and target_pose
    tcp_frame: tcp                # frame of current_twist and wrench where they are not in base: fr3_hand_tcp, tool0
    # namespace: /left            # in front of every topic; the rest are the defaults
    # pose: current_pose          # PoseStamped
    # joints: joint_states        # JointState
    # twist: current_twist        # TwistStamped; '' where there is none
    # wrench: wrench              # WrenchStamped; '' where there is none: then only the controller limits forces
    # wrench_sign: 1              # -1 where the wrench is what the world exerts on the robot
    # target: target_pose         # PoseStamped, ours
    # controller: cartesian_impedance_controller      # activated on connecting; leave out where it always is
    # trajectory_controller: joint_trajectory_controller    # active only while joints are moved
    # trajectory: joint_trajectory_controller/follow_joint_trajectory    # '' where there is none
    # gains: crisp                # stiffness, damping and clips are set as the controller's parameters
    # recover_service: arm_node/recover               # Trigger
    # transport: dds              # rclpy | dds; by default the first that is there

gripper:
  driver: ros2                    # ros2 | none (a fixed tool)
  # options: {{state: gripper/joint_states, topic: gripper/command}}
  # options: {{state: joint_states, joint: fr3_finger_joint1, opening_per_position: 2.0, action: gripper/gripper_cmd}}
"""

_TWIN = """# The simulated cell, as a file: a real one without the metal. Check it with: robot-rl check-cell {path}
arm:
  driver: twin
  model: fr3                      # fr3 | ur5e | path of an MJCF file
"""

TEMPLATES = {
    "franka": _FRANKA + _REST,
    "franky": _FRANKA + _REST,
    "ur": _UR + _REST,
    "ros2": _ROS2 + _REST,
    "twin": _TWIN + _REST,
}
"""Text of a new cell file by arm driver; `path` and `driver` are filled in."""
