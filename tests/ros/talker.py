"""The other process of test_real_ros: `talker.py TRANSPORT`. Sends back what it hears, and answers, by asking back."""

import sys
import threading

from drivers.ros2 import messages as ros
from drivers.ros2.node import DEFAULT, LATCHED
from drivers.ros2.opening import open_node

STRING, TRIGGER = "std_msgs/msg/String", "std_srvs/srv/Trigger"


def main(transport):
    node = open_node("talker", transport=transport)
    back = node.publisher("back", STRING, DEFAULT)
    node.subscribe("forth", STRING, lambda said: back.publish(ros.message(STRING, data=f"{said.data}, heard")), DEFAULT)

    def answer(_):
        said = node.call("listener_says", TRIGGER, ros.message(f"{TRIGGER}_Request"), 10.0)
        return ros.message(f"{TRIGGER}_Response", success=said.success, message=f"{said.message}, says the listener")

    node.serve("talker_says", TRIGGER, answer)
    node.publisher("kept", STRING, LATCHED).publish(ros.message(STRING, data="from before you came"))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
