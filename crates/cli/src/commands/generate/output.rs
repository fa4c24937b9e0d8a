//! The files that are written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::prelude::*;
use pyrograph_data::{RgbImage, grid, rgb_from_unit, save_png, save_png_with_text};
use pyrograph_pipeline::{INFOTEXT_KEYWORD, Infotext};
use pyrograph_weights::{SystemDisk, save_tensors};

use crate::args::{FileArgs, UsageError};

/// Where pictures go.
#[derive(Debug)]
pub(super) struct Output<'a> {
    files: &'a FileArgs,
    n_pictures: usize,
}

impl<'a> Output<'a> {
    pub(super) fn new(files: &'a FileArgs, n_pictures: usize) -> Result<Self, UsageError> {
        let others = [&files.grid, &files.preview, &files.output_latents].into_iter().flatten();
        for file in others.chain([&files.output]) {
            check_folder(file)?;
        }
        Ok(Self { files, n_pictures })
    }

    /// Where to write a preview after a call, if now is the time.
    pub(super) fn preview_of(&self, call: usize, n_calls: usize) -> Option<&'a Path> {
        let is_due = (call + 1).is_multiple_of(self.files.preview_every.get()) && call + 1 < n_calls;
        self.files.preview.as_deref().filter(|_| is_due)
    }

    /// Writes pictures, `[pictures, 3, height, width]` in [0, 1], the first of which has the number `first`, each with what it was drawn with.
    pub(super) fn write(
        &self,
        first: usize,
        pictures: &Tensor<4>,
        infotexts: &[Infotext],
    ) -> anyhow::Result<Vec<RgbImage>> {
        let write = |(idx, infotext): (usize, &Infotext)| {
            let picture = to_rgb(pictures.clone().narrow(0, idx, 1))?;
            save_png_with_text(&picture, INFOTEXT_KEYWORD, &infotext.to_string(), &self.path(first + idx))?;
            Ok(picture)
        };
        infotexts.iter().enumerate().map(write).collect()
    }

    /// Writes the latents of all pictures, batch by batch, if they are wanted.
    pub(super) fn write_latents(&self, batches: Vec<Tensor<4>>) -> anyhow::Result<()> {
        let Some(path) = &self.files.output_latents else { return Ok(()) };
        let latents = Tensor::cat(batches, 0).into_data();
        let tensors = BTreeMap::from([("latents".to_owned(), latents)]);
        save_tensors(path, &tensors, &BTreeMap::new(), &SystemDisk)?;
        Ok(())
    }

    /// Writes the grid and tells where everything is, and what loading and drawing took.
    pub(super) fn finish(
        &self,
        pictures: &[RgbImage],
        n_each: usize,
        [loading, drawing]: [Duration; 2],
    ) -> anyhow::Result<()> {
        if let Some(path) = &self.files.grid {
            let rows: Vec<Vec<RgbImage>> = pictures.chunks(n_each).map(<[_]>::to_vec).collect();
            save_png(&grid(&rows), path)?;
        }
        let (loading, drawing) = (loading.as_secs_f64(), drawing.as_secs_f64());
        let place = match self.n_pictures {
            1 => format!("the picture is in {}", self.files.output.display()),
            n => format!("the pictures are in {} to {}", self.path(0).display(), self.path(n - 1).display()),
        };
        tracing::info!("{place}, drawn in {drawing:.1} s (loaded in {loading:.1} s)");
        Ok(())
    }

    fn path(&self, idx: usize) -> PathBuf {
        let output = &self.files.output;
        if self.n_pictures == 1 {
            return output.clone();
        }
        let stem = output.file_stem().unwrap_or_default().to_string_lossy();
        let extension = output.extension().unwrap_or_else(|| "png".as_ref()).to_string_lossy();
        output.with_file_name(format!("{stem}-{}.{extension}", idx + 1))
    }
}

/// Writes the first picture of a batch, `[pictures, 3, height, width]` in [0, 1].
pub(super) fn save(pictures: &Tensor<4>, path: &Path) -> anyhow::Result<()> {
    Ok(save_png(&to_rgb(pictures.clone())?, path)?)
}

/// The first picture of a batch.
fn to_rgb(pictures: Tensor<4>) -> anyhow::Result<RgbImage> {
    let [.., height, width] = pictures.dims();
    let pixels = pictures.narrow(0, 0, 1).try_into_vec_as::<f32>()?;
    Ok(rgb_from_unit(&pixels, u32::try_from(width)?, u32::try_from(height)?)?)
}

/// Refuses a picture that is to be written into a folder that is not there.
pub(in crate::commands) fn check_folder(picture: &Path) -> Result<(), UsageError> {
    let folder = picture.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(UsageError::NoFolderForPicture { path: picture.to_owned() }),
        _ => Ok(()),
    }
}
