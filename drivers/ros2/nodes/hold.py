"""`hold NODE`: tell an arm's node to hold, and end. What a session does before it is taken down."""

import sys

from drivers.ros2.messages import message
from drivers.ros2.node import open_node
from robot_rl.errors import RobotRLError

__all__ = ["main"]

TRIGGER = "std_srvs/srv/Trigger"
PATIENCE_S = 2.0


def main() -> int:
    """Entry of the program."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    arm = words[0] if words else "arm_node"
    node = None
    try:
        node = open_node("hold")
        answer = node.call(f"/{arm.lstrip('/')}/stop", TRIGGER, message(f"{TRIGGER}_Request"), PATIENCE_S)
    except RobotRLError as error:
        print(f"The arm could not be told to hold: {error} It holds by its own watchdog.", file=sys.stderr)
        return 2
    finally:
        if node is not None:
            node.close()
    print("The arm holds." if answer.success else f"The arm does not hold: {answer.message}")
    return 0 if answer.success else 2
