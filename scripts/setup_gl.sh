#!/usr/bin/env bash
# Find, or as root install, the OpenGL library that MuJoCo renders off-screen with.
# Usage: setup_gl.sh PYTHON DONE_FILE
# DONE_FILE is written, with the backend's name, only once a picture has really been rendered. Without one the
# script still succeeds, because everything but cameras and videos works: it is tried again at the next call.
set -euo pipefail
python=$1
done_file=$2

renders() {
    MUJOCO_GL=$1 timeout 120 "$python" - >/dev/null 2>&1 <<'PROGRAM'
import mujoco

model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='.1'/></worldbody></mujoco>")
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.render()
PROGRAM
}

found() {
    local backend
    for backend in ${MUJOCO_GL:-egl osmesa}; do
        if renders "$backend"; then
            echo "$backend" >"$done_file"
            echo "== setup: MuJoCo renders with MUJOCO_GL=$backend"
            return 0
        fi
    done
    return 1
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 2>&1
}

found && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "== setup: installing OpenGL for MuJoCo (libegl1 libgl1 libgl1-mesa-dri)"
    apt-get update -qq </dev/null >/dev/null 2>&1 || true
    apt_install libegl1 libgl1 libgl1-mesa-dri && found && exit 0
    apt_install libosmesa6 && found && exit 0
fi
echo "== setup: MuJoCo cannot render here (cameras and videos will not work). Install: apt-get install libegl1 libgl1 libgl1-mesa-dri, or libosmesa6"
