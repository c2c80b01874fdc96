#!/bin/sh
# On a card, in under eight minutes: the tests that need a GPU, then the tables of benchmarks/speed/gpu_check.py.
# Without one the tests are skipped and the tables are of small shapes, so that the script can be tried anywhere.
#
#   scripts/gpu_check.sh                        # PYTHON=.venv/bin/python by default, else python3
#   scripts/gpu_check.sh --masks 200 > gpu.md   # options of the tables
set -eu
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false
# Which tests know of a device: those on a GPU by name, then states on the host, report speed, half precision.
tested=0
timeout 120 "$PYTHON" -m pytest -q -rs -p no:cacheprovider tests/test_pruner.py tests/test_forward_limits.py \
    tests/test_report.py tests/test_calibration_devices.py -k "${TESTS:-gpu or cuda or device or host or speed or half}" || tested=$?
timeout 340 "$PYTHON" -m benchmarks.speed.gpu_check "$@"
exit "$tested"
