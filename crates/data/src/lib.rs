//! Image-pair data sets: sources, transforms, order and a resumable loader.
