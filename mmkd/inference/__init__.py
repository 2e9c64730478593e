"""Inference: what a trained RGB model says of videos and of streams of frames, without Ray or anything of training."""
