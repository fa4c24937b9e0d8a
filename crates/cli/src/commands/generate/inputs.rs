//! From flags and files to what is to be drawn.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_data::{DataError, HintPixels, Side, load_hint_for_inference, load_mask_for_inference};
use pyrograph_pipeline::{Originals, Prompt};
use pyrograph_weights::read_tensor;

use crate::args::{CanvasArgs, PromptArgs, UsageError};

/// A flag's values, one for each of `n` things: given once for each, once for all, or not at all if there is a default.
pub(super) fn each<T: Clone>(
    flag: &'static str,
    values: &[T],
    n: usize,
    things: &'static str,
    default: Option<T>,
) -> Result<Vec<T>, UsageError> {
    match (values, default) {
        (values, _) if values.len() == n => Ok(values.to_vec()),
        ([], Some(default)) => Ok(vec![default; n]),
        ([value], Some(_)) if n > 0 => Ok(vec![value.clone(); n]),
        _ => Err(UsageError::FlagCount { flag, found: values.len(), n, things }),
    }
}

/// Every picture that is to be drawn, those of one prompt after another.
#[derive(Debug)]
pub(super) struct Pictures {
    prompts: Vec<Prompt>,
    negative_prompts: Option<Vec<Prompt>>,
    seeds: Vec<u64>,
}

/// Some of them, to be drawn at once.
#[derive(Debug)]
pub(super) struct Batch {
    /// Which of all pictures they are.
    pub(super) numbers: Range<usize>,
    pub(super) prompts: Vec<Prompt>,
    pub(super) negative_prompts: Option<Vec<Prompt>>,
    pub(super) seeds: Vec<u64>,
}

impl Pictures {
    pub(super) fn new(args: &PromptArgs) -> Result<Self, UsageError> {
        let n_each = args.num_images_per_prompt.get();
        let n_prompts = args.prompt.len();
        let n_all = n_prompts * n_each;
        let spread = |texts: Vec<String>, seconds: Vec<Option<String>>| -> Vec<Prompt> {
            let prompts = texts.into_iter().zip(seconds).map(|(text, second)| Prompt { text, second });
            prompts.flat_map(|prompt| std::iter::repeat_n(prompt, n_each)).collect()
        };
        let seconds = |flag, texts: &[String]| {
            let texts: Vec<Option<String>> = texts.iter().cloned().map(Some).collect();
            each(flag, &texts, n_prompts, "prompts", Some(None))
        };
        let second_negatives = seconds("negative_prompt_2", &args.negative_prompt_2)?;
        let negative_prompts = match &args.negative_prompt[..] {
            [] => None,
            negative => {
                let texts = each("negative_prompt", negative, n_prompts, "prompts", Some(String::new()))?;
                Some(spread(texts, second_negatives))
            }
        };
        let prompts = spread(args.prompt.clone(), seconds("prompt_2", &args.prompt_2)?);
        let seeds = match args.seed[..] {
            [first] => (0..).take(n_all).map(|idx: u64| first.wrapping_add(idx)).collect(),
            _ => each("seed", &args.seed, n_all, "pictures", None)?,
        };
        Ok(Self { prompts, negative_prompts, seeds })
    }

    pub(super) fn n_all(&self) -> usize {
        self.prompts.len()
    }

    /// All of them in their order. Prompts of different length would lengthen each other, so they are not drawn at once.
    pub(super) fn batches(
        &self,
        batch_size: NonZeroUsize,
        n_chunks: impl Fn(&Prompt, Option<&Prompt>) -> usize,
    ) -> impl Iterator<Item = Batch> {
        let negative_of = |idx: usize| self.negative_prompts.as_ref().map(|all| &all[idx]);
        let lengths = self.prompts.iter().enumerate().map(|(idx, prompt)| n_chunks(prompt, negative_of(idx)));
        let lengths: Vec<usize> = lengths.collect();
        let mut first = 0;
        std::iter::from_fn(move || {
            let length = lengths.get(first)?;
            let n_equal = lengths[first..].iter().take_while(|other| *other == length).count();
            let numbers = first..first + n_equal.min(batch_size.get());
            first = numbers.end;
            Some(Batch {
                prompts: self.prompts[numbers.clone()].to_vec(),
                negative_prompts: self.negative_prompts.as_ref().map(|all| all[numbers.clone()].to_vec()),
                seeds: self.seeds[numbers.clone()].to_vec(),
                numbers,
            })
        })
    }
}

/// Numbers of one picture, `[channels, height, width]`.
#[derive(Debug)]
pub(super) struct Pixels {
    numbers: Vec<f32>,
    shape: [usize; 3],
}

impl Pixels {
    fn rgb(HintPixels { hint_unit, width, height }: HintPixels) -> Self {
        Self { numbers: hint_unit, shape: [3, height as usize, width as usize] }
    }

    /// The same for each picture.
    pub(super) fn tensor(&self, n_pictures: usize, device: &Device) -> Tensor<4> {
        let [channels, height, width] = self.shape;
        let data = TensorData::new(self.numbers.clone(), [1, channels, height, width]);
        Tensor::<4>::from_data(data, device).repeat_dim(0, n_pictures)
    }
}

/// What pictures begin as, and their size.
#[derive(Debug)]
pub(super) struct Canvas {
    /// Width and height, if a flag or a file says it.
    size: Option<(Side, Side)>,
    image: Option<Pixels>,
    mask: Option<Pixels>,
    strength: f64,
}

impl Canvas {
    /// Takes the size from the flags, else from the picture to change, else from the first hint.
    pub(super) fn new(args: &CanvasArgs, first_hint: Option<&PathBuf>) -> Result<Self, DataError> {
        let mut size = match (args.width, args.height) {
            (Some(width), Some(height)) => Some((width, height)),
            _ => None,
        };
        if let (None, Some(sized)) = (size, args.image.as_ref().or(first_hint)) {
            let own = load_hint_for_inference(sized, None)?;
            let side =
                |flag: Option<Side>, pixels: u32| flag.map_or_else(|| Side::try_from(pixels as usize), Ok);
            size = Some((side(args.width, own.width)?, side(args.height, own.height)?));
        }
        let image = args.image.as_deref().map(|path| load_hint_for_inference(path, size)).transpose()?;
        let mask = match (&args.mask_image, size) {
            (Some(path), Some((width, height))) => {
                let numbers = load_mask_for_inference(path, (width, height))?;
                Some(Pixels { numbers, shape: [1, height.get(), width.get()] })
            }
            _ => None,
        };
        let strength = args.strength.unwrap_or(if mask.is_some() { 1.0 } else { 0.8 });
        Ok(Self { size, image: image.map(Pixels::rgb), mask, strength })
    }

    /// A hint in the size of the pictures.
    pub(super) fn hint(&self, path: &Path) -> Result<Pixels, DataError> {
        load_hint_for_inference(path, self.size).map(Pixels::rgb)
    }

    /// Height and width of the pictures, which are those of a square if nothing else was said.
    pub(super) fn size_or(&self, side: Side) -> [usize; 2] {
        let (width, height) = self.size.unwrap_or((side, side));
        [height.get(), width.get()]
    }

    /// How much is drawn anew, if there is a picture to change.
    pub(super) fn strength(&self) -> Option<f64> {
        self.image.as_ref().map(|_| self.strength)
    }

    pub(super) fn originals(&self, n_pictures: usize, device: &Device) -> Option<Originals> {
        let tensor = |pixels: &Pixels| pixels.tensor(n_pictures, device);
        let (images, masks) = (tensor(self.image.as_ref()?), self.mask.as_ref().map(tensor));
        Some(Originals { images, masks, strength: self.strength })
    }
}

/// The tensor `latents` of a safetensors file, `[pictures, channels, height, width]`.
pub(super) fn latents(path: &Path, n_pictures: usize, device: &Device) -> anyhow::Result<Tensor<4>> {
    let data = read_tensor(path, "latents")?;
    if data.shape().len() != 4 || data.shape()[0] != n_pictures {
        let shape = data.shape().to_vec();
        return Err(UsageError::LatentsShape { path: path.to_owned(), shape, n_pictures }.into());
    }
    Ok(Tensor::from_data(data.convert::<f32>(), device))
}
