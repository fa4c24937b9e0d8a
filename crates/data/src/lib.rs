//! Image-pair data sets: sources, transforms, order and a resumable loader.
//!
//! [`Dataset::open`] finds out how a folder is laid out and lists its samples. A [`Loader`] decodes them in
//! the order of a seed with worker threads; its [`Cursor`] is all that a checkpoint needs to continue. Nothing
//! here knows tensors: a [`HostBatch`] is plain numbers in `[batch, channels, height, width]` order.
//!
//! ```no_run
//! use std::{num::NonZeroUsize, path::Path, sync::Arc};
//!
//! use pyrograph_data::{Columns, Cursor, Dataset, Interpolation, Loader, LoaderOptions, Share, Side, Transform};
//!
//! let dataset = Arc::new(Dataset::open(Path::new("circles"), &Columns::default())?);
//! let transform = Transform::new(Side::try_from(512)?, Interpolation::Bilinear);
//! let (batch_size, share) = (NonZeroUsize::MIN, Share::WHOLE);
//! let options = LoaderOptions { seed: 0, batch_size, share, workers: 2, prefetch: 4, transform, buckets: None, encoded: None };
//! let mut loader = Loader::new(dataset, &options, Cursor::default())?;
//! let batch = loader.next_batch()?;
//! assert_eq!(batch.hint_unit.len(), 3 * 512 * 512);
//! # Ok::<(), pyrograph_data::DataError>(())
//! ```

mod buckets;
mod build;
mod cache;
mod check;
mod circles;
pub mod colors;
mod content;
mod decode;
mod encoded;
mod error;
mod fidelity;
mod geometry;
mod grid;
mod hints;
mod loader;
#[cfg(test)]
mod meter;
mod new_folder;
mod order;
#[cfg(test)]
mod parity;
mod picture;
mod png_text;
mod quarantine;
pub mod random;
mod resize;
mod shapes;
mod source;
mod transform;

pub use image::RgbImage;

pub use crate::source::{
    Columns, Data, Dataset, Layout, Origin, Sample, SourceOptions, Stream, StreamOptions, Survey,
};
pub use crate::transform::{
    HintPixels, PixelSample, Transform, Turn, load_hint_for_inference, load_mask_for_inference,
};
pub use crate::{
    buckets::{Buckets, bucket_of_each},
    build::{BuildOptions, Built, ShardFormat, build},
    cache::{Blob, Cache, CacheCounts, CacheFolder, CacheKey},
    check::{
        CaptionLengths, CheckOptions, CheckReport, CheckedRow, DataStats, Finding, Misplacement, Ruler,
        check, contact_sheet,
    },
    circles::{Circles, generate_circles},
    colors::{Color, Palette},
    content::{Container, Content, Packing, Part},
    decode::decode_rgb8,
    encoded::{EncodedImages, LoadedSample, Target},
    error::{DataError, PathFault, TableFault},
    fidelity::{
        ColorsRight, EdgeFidelity, HintKind, OutlineFidelity, colors_right, edge_fidelity, enclosed,
        intersection_over_union, mean_color, nearest_color, outline_fidelity, psnr, segment,
    },
    geometry::{Crop, Flip, Geometry, Side, Size},
    grid::grid,
    hints::{
        CannyThresholds, HintFolder, HintMaker, MadeHint, MaskKind, Span, canny, make_hint_file,
        make_hint_folder,
    },
    loader::{HostBatch, LeftOut, Loader, LoaderOptions},
    order::{BatchOrder, Cursor, Share, epoch_order},
    picture::{png_bytes, rgb_from_unit, rgb_to_unit, save_png},
    png_text::{read_png_text, save_png_with_text},
    quarantine::Quarantine,
    resize::{Interpolation, resize},
    shapes::{Figure, Ground, Scene, SceneOptions},
};
