"""The MuJoCo twin: physics, impedance law and cameras of a cell, without the cell."""

import ctypes.util
import importlib
import os
import sys

if sys.platform == "linux" and "MUJOCO_GL" not in os.environ and not os.environ.get("DISPLAY"):
    # MuJoCo picks its OpenGL when first imported and would pick a window system that is not there.
    os.environ["MUJOCO_GL"] = "egl" if ctypes.util.find_library("EGL") else "osmesa"
    if chosen := sys.modules.get("mujoco.rendering.classic.gl_context"):  # somebody imported it before us
        importlib.reload(chosen)
