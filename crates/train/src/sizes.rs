//! What SDXL is told of how a picture came to its size.

use pyrograph_data::Geometry;
use pyrograph_pipeline::MicroConditioning;

/// The sizes and the crop of a sample, as SDXL is told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeConditioning {
    /// Those of its own file: it is learned that small originals are blurred and that crops cut objects.
    ///
    /// Source: Podell et al. 2023, section 2.2.
    OfEachPicture,
    /// As if every file had the resolution of the training, with this crop (top and left).
    ///
    /// Source: diffusers `train_controlnet_sdxl.py` (0.42), `compute_embeddings`.
    Constant {
        /// `crops_coords_top_left_h` and `crops_coords_top_left_w`.
        crop: [usize; 2],
    },
}

impl SizeConditioning {
    pub(crate) fn of(self, geometry: &Geometry) -> MicroConditioning {
        let pair = |(width, height): (u32, u32)| [height, width].map(|pixels| pixels as usize);
        let target = [geometry.size.height.get(), geometry.size.width.get()];
        match self {
            Self::OfEachPicture => MicroConditioning {
                original: pair(geometry.original),
                crop: pair(geometry.visible_offset()),
                target,
            },
            Self::Constant { crop } => MicroConditioning { original: target, crop, target },
        }
    }
}

#[cfg(test)]
mod tests {
    use pyrograph_data::{Side, Size};

    use super::*;

    #[test]
    fn a_wide_picture_is_told_as_height_and_width_and_the_reference_tells_none() {
        let side = |pixels: usize| Side::try_from(pixels).expect("a side");
        let geometry = Geometry::new(800, 400, Size::square(side(64))).expect("a geometry");
        let of_picture = SizeConditioning::OfEachPicture.of(&geometry);
        assert_eq!(of_picture, MicroConditioning { original: [400, 800], crop: [0, 32], target: [64, 64] });
        let constant = SizeConditioning::Constant { crop: [5, 6] }.of(&geometry);
        assert_eq!(constant, MicroConditioning { original: [64, 64], crop: [5, 6], target: [64, 64] });
    }

    #[test]
    fn a_bucket_and_a_mirrored_crop_are_told_as_they_are_seen() {
        let side = |pixels: usize| Side::try_from(pixels).expect("a side");
        let geometry =
            Geometry::new(800, 400, Size { width: side(96), height: side(64) }).expect("a geometry");
        let geometry = Geometry { offset: (10, 0), is_mirrored: true, ..geometry };
        let expected = MicroConditioning { original: [400, 800], crop: [0, 128 - 96 - 10], target: [64, 96] };
        assert_eq!(SizeConditioning::OfEachPicture.of(&geometry), expected);
        let constant = SizeConditioning::Constant { crop: [0, 0] }.of(&geometry);
        assert_eq!(constant, MicroConditioning { original: [64, 96], crop: [0, 0], target: [64, 96] });
    }
}
