"""What all parts share. Importing it keeps OpenCV to the calling thread."""

import cv2

# Processes are the parallelism here. It cannot be left to each of them: in one that is forked (a data loader's) after
# OpenCV has used its threads, this very call waits for them for ever.
cv2.setNumThreads(1)
