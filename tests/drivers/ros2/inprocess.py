"""Nodes that talk within one process, at once and in order: what a test of logic needs, with the bytes of the wire.

Every message is encoded and decoded on its way, so that what would not travel does not pass here either.
"""

import threading
from collections import defaultdict

from drivers.ros2.arguments import Arguments, checked
from drivers.ros2.messages import decode, encode
from drivers.ros2.node import DEFAULT, Endpoint, mismatch
from robot_rl.errors import DeviceTimeoutError


class Bus:
    """What the nodes of a test share; `now_s` is everybody's clock."""

    def __init__(self):
        self.now_s = 1000.0
        self.listeners = defaultdict(list)  # topic: (node, kind, take, qos)
        self.senders = defaultdict(list)  # topic: (node, kind, qos)
        self.services = {}
        self.kept = {}  # topic: the last message of a publisher that is transient local
        self.heard = defaultdict(list)  # topic: everything that was sent there

    def node(self, name="node", arguments=None):
        return InProcessNode(self, name, arguments or Arguments())


class InProcessNode:
    def __init__(self, bus, name, arguments):
        self.bus, self.name, self._arguments = bus, name, arguments
        self.closed = False

    def declare(self, parameters):
        return checked(parameters, self._arguments.parameters)

    def now(self):
        return self.bus.now_s

    def resolve(self, name):
        return self._arguments.remapping.resolve(name, self.name)

    def publisher(self, topic, kind, qos=DEFAULT):
        whole = self.resolve(topic)
        self.bus.senders[whole].append((self, kind, qos))
        return InProcessPublisher(self.bus, whole, kind, qos)

    def subscribe(self, topic, kind, take, qos=DEFAULT):
        whole = self.resolve(topic)
        self.bus.listeners[whole].append((self, kind, take, qos))
        if qos.transient_local and whole in self.bus.kept:
            take(decode(kind, self.bus.kept[whole]))

    def serve(self, service, kind, answer):
        self.bus.services[self.resolve(service)] = (kind, answer)

    def call(self, service, kind, request, timeout_s):
        whole = self.resolve(service)
        if whole not in self.bus.services:
            raise DeviceTimeoutError(f"Nobody offers the ROS service {whole} ({timeout_s:g} s).")
        known, answer = self.bus.services[whole]
        assert known == kind
        response = answer(decode(f"{kind}_Request", encode(f"{kind}_Request", request)))
        return decode(f"{kind}_Response", encode(f"{kind}_Response", response))

    def publishers(self, topic):
        return [Endpoint(f"/{n.name}", kind, qos) for n, kind, qos in self.bus.senders[self.resolve(topic)]]

    def subscribers(self, topic):
        return [Endpoint(f"/{n.name}", kind, qos) for n, kind, _, qos in self.bus.listeners[self.resolve(topic)]]

    def topics(self):
        both = [*self.bus.senders.items(), *self.bus.listeners.items()]
        return {topic: ends[0][1] for topic, ends in both if ends}

    def close(self):
        self.closed = True
        for ends in (*self.bus.senders.values(), *self.bus.listeners.values()):
            ends[:] = [end for end in ends if end[0] is not self]


class InProcessPublisher:
    def __init__(self, bus, topic, kind, qos):
        self._bus, self._topic, self._kind, self._qos = bus, topic, kind, qos
        self._lock = threading.Lock()

    def publish(self, content):
        raw = encode(self._kind, content)
        if self._qos.transient_local:
            self._bus.kept[self._topic] = raw
        self._bus.heard[self._topic].append(decode(self._kind, raw))
        for _, kind, take, qos in list(self._bus.listeners[self._topic]):
            if kind == self._kind and not mismatch(self._qos, qos):
                take(decode(kind, raw))

    def subscribers(self):
        return len(self._bus.listeners[self._topic])
