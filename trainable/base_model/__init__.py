"""The frozen base models: loading any, and the one bundled with this package."""
