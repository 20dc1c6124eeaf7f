"""The main job as a new user sees it: stack, image origin, one button, served images, one contact sheet."""
