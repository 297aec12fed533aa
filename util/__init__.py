"""Code that the packages share, in rooms: options, files, run, weights, masks, samples, video.

The docstring of a room says what belongs in it; tests/test_layers.py says which room may import which. Importing util
limits OpenCV to the calling thread.
"""

from contextlib import suppress

# The work is parallel by processes, so OpenCV's threads would only compete. The limit is set at import, because a data
# loading process cannot set it: forked after OpenCV has used its threads, it would wait for them in this call for ever.
# Where there is no OpenCV yet, scripts/check_options.py reads options before it is installed.
with suppress(ModuleNotFoundError):
    import cv2

    cv2.setNumThreads(1)
