//! A loaded Stable Diffusion bundle with ControlNet, and generate.
