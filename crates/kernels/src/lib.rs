//! Tensor operations of diffusion models: attention, group norm + SiLU, GEGLU.
