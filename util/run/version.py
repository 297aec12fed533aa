"""The version of this program. CHANGELOG.md says what changed; checkpoints record with which one they were written."""

VERSION = "0.9.0"
