"""Messages, services and actions of ROS 2 Jazzy that rosbags' type store does not hold, in ROS's own notation."""

__all__ = ["ACTIONS", "MESSAGES", "SERVICES"]

MESSAGES = {
    "control_msgs/msg/GripperCommand": """
        float64 position
        float64 max_effort
    """,
    "control_msgs/msg/JointTolerance": """
        string name
        float64 position
        float64 velocity
        float64 acceleration
    """,
    "control_msgs/msg/JointComponentTolerance": """
        string joint_name
        uint16 component
        float64 position
        float64 velocity
        float64 acceleration
    """,
    "controller_manager_msgs/msg/ChainConnection": """
        string name
        string[] reference_interfaces
    """,
    "controller_manager_msgs/msg/ControllerState": """
        string name
        string state
        string type
        bool is_async
        uint16 update_rate
        string[] claimed_interfaces
        string[] required_command_interfaces
        string[] required_state_interfaces
        bool is_chainable
        bool is_chained
        string[] exported_state_interfaces
        string[] reference_interfaces
        controller_manager_msgs/ChainConnection[] chain_connections
    """,
}

SERVICES = {  # request --- response
    "std_srvs/srv/Trigger": """
        ---
        bool success
        string message
    """,
    "controller_manager_msgs/srv/ListControllers": """
        ---
        controller_manager_msgs/ControllerState[] controller
    """,
    "controller_manager_msgs/srv/SwitchController": """
        string[] activate_controllers
        string[] deactivate_controllers
        int32 strictness
        bool activate_asap
        builtin_interfaces/Duration timeout
        ---
        bool ok
        string message
    """,
    "rcl_interfaces/srv/SetParameters": """
        rcl_interfaces/Parameter[] parameters
        ---
        rcl_interfaces/SetParametersResult[] results
    """,
    "action_msgs/srv/CancelGoal": """
        action_msgs/GoalInfo goal_info
        ---
        int8 return_code
        action_msgs/GoalInfo[] goals_canceling
    """,
    "lifecycle_msgs/srv/ChangeState": """
        lifecycle_msgs/Transition transition
        ---
        bool success
    """,
    "lifecycle_msgs/srv/GetState": """
        ---
        lifecycle_msgs/State current_state
    """,
    "lifecycle_msgs/srv/GetAvailableStates": """
        ---
        lifecycle_msgs/State[] available_states
    """,
    "lifecycle_msgs/srv/GetAvailableTransitions": """
        ---
        lifecycle_msgs/TransitionDescription[] available_transitions
    """,
}

ACTIONS = {  # goal --- result --- feedback
    "control_msgs/action/GripperCommand": """
        control_msgs/GripperCommand command
        ---
        float64 position
        float64 effort
        bool stalled
        bool reached_goal
        ---
        float64 position
        float64 effort
        bool stalled
        bool reached_goal
    """,
    "control_msgs/action/FollowJointTrajectory": """
        trajectory_msgs/JointTrajectory trajectory
        trajectory_msgs/MultiDOFJointTrajectory multi_dof_trajectory
        control_msgs/JointTolerance[] path_tolerance
        control_msgs/JointComponentTolerance[] component_path_tolerance
        control_msgs/JointTolerance[] goal_tolerance
        control_msgs/JointComponentTolerance[] component_goal_tolerance
        builtin_interfaces/Duration goal_time_tolerance
        ---
        int32 error_code
        string error_string
        ---
        std_msgs/Header header
        string[] joint_names
        trajectory_msgs/JointTrajectoryPoint desired
        trajectory_msgs/JointTrajectoryPoint actual
        trajectory_msgs/JointTrajectoryPoint error
        string[] multi_dof_joint_names
        trajectory_msgs/MultiDOFJointTrajectoryPoint multi_dof_desired
        trajectory_msgs/MultiDOFJointTrajectoryPoint multi_dof_actual
        trajectory_msgs/MultiDOFJointTrajectoryPoint multi_dof_error
    """,
}
