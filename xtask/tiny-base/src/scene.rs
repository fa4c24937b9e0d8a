//! The pictures that the tiny base learns to draw.

use clap::ValueEnum;
use pyrograph_data::colors::COLORS;
use pyrograph_data::{Figure, Ground, RgbImage, Scene, SceneOptions, Side};
use serde::{Deserialize, Serialize};

/// Width and height in pixels.
pub(crate) const SIDE: u32 = 128;

/// Pictures from this number on are for measuring and are never trained on.
pub(crate) const HELD_OUT: u64 = 1 << 40;

/// What there is to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scenes {
    /// Circles on plain grounds.
    Circles,
    /// All figures on plain grounds.
    Figures,
    /// All figures on all grounds.
    All,
}

impl Scenes {
    fn options(self) -> SceneOptions {
        let all = SceneOptions::default();
        match self {
            Self::Circles => SceneOptions { figures: &[Figure::Circle], grounds: &[Ground::Plain], ..all },
            Self::Figures => SceneOptions { grounds: &[Ground::Plain], ..all },
            Self::All => all,
        }
    }

    /// The scene of a seed and a number.
    pub(crate) fn scene(self, seed: u64, index: u64) -> Scene {
        Scene::draw(seed, index, &self.options())
    }

    /// It, drawn.
    pub(crate) fn picture(self, seed: u64, index: u64) -> RgbImage {
        picture(&self.scene(seed, index))
    }
}

/// A scene at the model's size.
pub(crate) fn picture(scene: &Scene) -> RgbImage {
    scene.picture(Side::try_from(SIDE as usize).expect("128 divides by 8"))
}

/// The words of all captions, and of those in other colours.
pub(crate) fn words() -> Vec<&'static str> {
    let mut words = vec!["with", "background", "striped", "checkered"];
    words.extend(Figure::ALL.map(Figure::name));
    words.extend(COLORS.iter().flat_map(|(name, _)| name.split(' ')));
    words
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_word_of_a_caption_is_known() {
        let known: HashSet<&str> = words().into_iter().collect();
        for index in 0..200 {
            let caption = Scenes::All.scene(5, index).caption();
            assert!(caption.split(' ').all(|word| known.contains(word)), "{caption}");
        }
    }
}
