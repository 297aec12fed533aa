"""What the commands at the root share: training, its plan, scoring, inference, the requests of the page."""
