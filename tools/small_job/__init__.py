"""The main job in small: generated videos, pretrained encoders, training, inference, scores and pictures."""
