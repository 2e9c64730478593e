"""A local page in the browser: drop a video, and see what a model says of it over time, and on which frames."""
