//! Latents and prompt embeddings never change, so they are computed once and kept, for this run or for all.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::{DType, TensorData};
use pyrograph_data::{
    Blob, Cache, CacheCounts, CacheFolder, CacheKey, EncodedImages, Geometry, Size, Target,
};
use pyrograph_pipeline::{AutoencoderKl, Bundle, Conditioning, PromptEmbeddings, TextEncoders};

use crate::TrainError;
use crate::plan::{CachePlan, ModelPlan, TrainPlan};
use crate::sizes::SizeConditioning;

/// What is kept of latents and of prompt embeddings in memory, each.
pub(crate) const MEMORY_BYTES: usize = 1 << 30;

/// Encodes images and captions, and remembers what was encoded.
///
/// Samples are encoded one by one: in a batch the same image could come out with other last bits, and a resumed
/// run batches the first encoding differently.
///
/// Once everything is kept, the bundle's encoders can be freed. What is lost after that, because a file on disk was damaged
/// or deleted, has them read again.
#[derive(Debug)]
pub(crate) struct Encoder {
    device: Device,
    sizes: SizeConditioning,
    /// `None`: nothing is kept.
    kept: Option<Kept>,
    /// Where encoders are read again from.
    model: ModelPlan,
    has_freed_text: bool,
    has_freed_vae: bool,
    text_again: OnceLock<TextEncoders>,
    vae_again: OnceLock<AutoencoderKl>,
}

#[derive(Debug)]
struct Kept {
    latents: Arc<Cache>,
    images: EncodedImages,
    prompts: Cache,
    /// One for each text encoder.
    text_encoders: Vec<[u8; 32]>,
}

/// What was encoded, on the device.
#[derive(Debug)]
pub(crate) struct Encoded<const D: usize> {
    pub(crate) tensor: Tensor<D>,
    pub(crate) is_finite: bool,
}

/// A caption that was encoded and what SDXL is told of its picture's size, on the device.
#[derive(Debug)]
pub(crate) struct EncodedPrompt {
    pub(crate) conditioning: Conditioning,
    pub(crate) is_finite: bool,
}

/// What a run found in its cache, and what it encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheUse {
    /// Of images.
    pub latents: CacheCounts,
    /// Of captions.
    pub prompts: CacheCounts,
}

impl Encoder {
    /// An encoder for the images and captions of one model.
    #[must_use]
    pub(crate) fn new(plan: &TrainPlan, bundle: &Bundle, device: Device) -> Self {
        Self {
            kept: Kept::new(&plan.cache, bundle, &device),
            device,
            sizes: plan.data.sizes,
            model: plan.model.clone(),
            has_freed_text: false,
            has_freed_vae: false,
            text_again: OnceLock::new(),
            vae_again: OnceLock::new(),
        }
    }

    /// Frees the bundle's text encoders. Every prompt of the run should be kept by now.
    pub(crate) fn free_text_encoders(&mut self, bundle: &mut Bundle) {
        self.has_freed_text = true;
        self.text_again = OnceLock::new();
        bundle.free_text_encoders();
    }

    /// Frees the encoder of the bundle's VAE. Every picture of the run should be kept by now.
    pub(crate) fn free_vae_encoder(&mut self, bundle: &mut Bundle) {
        self.has_freed_vae = true;
        bundle.free_vae_encoder();
    }

    pub(crate) fn has_freed_vae(&self) -> bool {
        self.has_freed_vae
    }

    /// Gives back what was freed.
    pub(crate) fn complete(&mut self, bundle: &mut Bundle) -> Result<(), TrainError> {
        if std::mem::take(&mut self.has_freed_text) {
            bundle.text = match self.text_again.take() {
                Some(text) => text,
                None => self.read_text_encoders(bundle)?,
            };
        }
        if std::mem::take(&mut self.has_freed_vae) {
            bundle.vae = match self.vae_again.take() {
                Some(vae) => vae,
                None => self.read_vae(bundle)?,
            };
        }
        Ok(())
    }

    fn read_text_encoders(&self, bundle: &Bundle) -> Result<TextEncoders, TrainError> {
        bundle.read_text_encoders(&self.model.base, &self.model.options()).map_err(TrainError::Pipeline)
    }

    fn read_vae(&self, bundle: &Bundle) -> Result<AutoencoderKl, TrainError> {
        bundle.read_vae(&self.model.base, &self.model.options()).map_err(TrainError::Pipeline)
    }

    /// The bundle's text encoders, or those that are read again.
    fn text<'a>(&'a self, bundle: &'a Bundle) -> Result<&'a TextEncoders, TrainError> {
        match self.text_again.get() {
            _ if !self.has_freed_text => Ok(&bundle.text),
            Some(text) => Ok(text),
            None => {
                tracing::warn!("the cache has lost a prompt: the text encoders are read again");
                let text = self.read_text_encoders(bundle)?;
                Ok(self.text_again.get_or_init(|| text))
            }
        }
    }

    /// The bundle's VAE, or that which is read again.
    fn vae<'a>(&'a self, bundle: &'a Bundle) -> Result<&'a AutoencoderKl, TrainError> {
        match self.vae_again.get() {
            _ if !self.has_freed_vae => Ok(&bundle.vae),
            Some(vae) => Ok(vae),
            None => {
                tracing::warn!("the cache has lost a picture: the VAE is read again");
                let vae = self.read_vae(bundle)?;
                Ok(self.vae_again.get_or_init(|| vae))
            }
        }
    }

    /// Where it computes.
    #[must_use]
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The images that need not be decoded any more.
    #[must_use]
    pub(crate) fn images(&self) -> Option<&EncodedImages> {
        self.kept.as_ref().map(|kept| &kept.images)
    }

    /// What was found and what was encoded, if anything is kept.
    #[must_use]
    pub(crate) fn cache_use(&self) -> Option<CacheUse> {
        let counts =
            |kept: &Kept| CacheUse { latents: kept.latents.counts(), prompts: kept.prompts.counts() };
        self.kept.as_ref().map(counts)
    }

    /// The moments of an image's latents.
    ///
    /// # Shapes
    /// - output: `[1, 2 * latent_channels, height, width]`
    pub(crate) fn moments(
        &self,
        bundle: &Bundle,
        target: Target,
        size: Size,
    ) -> Result<Encoded<4>, TrainError> {
        let encode = |image_signed| -> Result<Tensor<4>, TrainError> {
            let image = TensorData::new(image_signed, [1, 3, size.height.get(), size.width.get()]);
            let image = Tensor::from_data(image, &self.device);
            Ok(self.vae(bundle)?.encode(image).moments().cast(DType::F32))
        };
        Ok(match (target, &self.kept) {
            (Target::Encoded(blob), _) => self.encoded(&blob),
            (Target::Pixels { image_signed, key: Some(key) }, Some(kept)) => {
                // It may have been encoded since it was decoded.
                let known = kept.latents.get(&key);
                let blob = known.map_or_else(
                    || encode(image_signed).map(|moments| kept.latents.get_or_compute(key, || blob(moments))),
                    Ok,
                )?;
                self.encoded(&blob)
            }
            (Target::Pixels { image_signed, .. }, _) => looked_at(encode(image_signed)?),
        })
    }

    /// What the networks are told of one sample. Captions of equal tokens have the same embeddings.
    pub(crate) fn prompt(
        &self,
        bundle: &Bundle,
        caption: &str,
        geometry: &Geometry,
    ) -> Result<EncodedPrompt, TrainError> {
        let Encoded { tensor, is_finite } = self.row_of(bundle, caption)?;
        let embeddings = parted(tensor, &bundle.text);
        let conditioning = embeddings.with_sizes(vec![self.sizes.of(geometry)]);
        Ok(EncodedPrompt { conditioning, is_finite })
    }

    /// The embeddings of one prompt.
    pub(crate) fn embeddings(&self, bundle: &Bundle, prompt: &str) -> Result<PromptEmbeddings, TrainError> {
        Ok(parted(self.row_of(bundle, prompt)?.tensor, &bundle.text))
    }

    /// Encodes a prompt unless that was done.
    pub(crate) fn keep_prompt(&self, bundle: &Bundle, prompt: &str) -> Result<(), TrainError> {
        match &self.kept {
            Some(kept) if !kept.prompts.may_have(&kept.key(bundle, prompt)) => {
                self.row_of(bundle, prompt).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// The embeddings of one prompt in a row.
    fn row_of(&self, bundle: &Bundle, prompt: &str) -> Result<Encoded<1>, TrainError> {
        let encode = || Ok(flattened(self.text(bundle)?.encode(&[prompt], &self.device)));
        let Some(kept) = &self.kept else {
            return Ok(looked_at(encode()?));
        };
        let key = kept.key(bundle, prompt);
        let blob = match kept.prompts.get(&key) {
            Some(known) => known,
            None => {
                let row = encode()?;
                kept.prompts.get_or_compute(key, || blob(row))
            }
        };
        Ok(self.encoded(&blob))
    }

    fn encoded<const D: usize>(&self, blob: &Blob) -> Encoded<D> {
        let data = TensorData::new(blob.values().to_vec(), blob.shape().to_vec());
        let is_finite = blob.values().iter().all(|value| value.is_finite());
        Encoded { tensor: Tensor::from_data(data, &self.device), is_finite }
    }
}

/// Whether a cache keeps so many things of so many bytes to the end of the run.
pub(crate) fn keeps_all(plan: &CachePlan, count: usize, bytes: u64) -> bool {
    match plan {
        CachePlan::Off => false,
        CachePlan::Memory => (count as u64).saturating_mul(bytes) <= MEMORY_BYTES as u64,
        CachePlan::Disk(_) => true,
    }
}

impl Kept {
    fn new(plan: &CachePlan, bundle: &Bundle, device: &Device) -> Option<Self> {
        let folder = match plan {
            CachePlan::Off => return None,
            CachePlan::Memory => None,
            CachePlan::Disk(dir) => Some(Arc::new(CacheFolder::open(dir))),
        };
        // What lives no longer than the run was made by its own encoders.
        let (vae, text_encoders) = match folder {
            None => ([0; 32], Vec::new()),
            Some(_) => (
                fingerprint(&bundle.vae, &bundle.vae_config, device),
                bundle.text.iter().map(|text| fingerprint(text.model(), &text.config, device)).collect(),
            ),
        };
        let latents = Arc::new(Cache::new(MEMORY_BYTES, folder.clone()));
        let images = EncodedImages::new(Arc::clone(&latents), vae);
        let prompts = Cache::new(MEMORY_BYTES, folder);
        Some(Self { latents, images, prompts, text_encoders })
    }

    /// Names a prompt's embeddings.
    fn key(&self, bundle: &Bundle, prompt: &str) -> CacheKey {
        let ids = bundle.text.iter().flat_map(|text| text.tokenizer.encode(prompt).ids);
        let ids: Vec<u8> = ids.flat_map(u32::to_le_bytes).collect();
        CacheKey::new("prompt", &[&ids, self.text_encoders.as_flattened()])
    }
}

/// What was encoded a moment ago: waiting for it costs little beside that.
fn looked_at<const D: usize>(tensor: Tensor<D>) -> Encoded<D> {
    let is_finite = tensor.clone().is_finite().all().into_scalar::<bool>();
    Encoded { tensor, is_finite }
}

/// The embeddings of one prompt in a row: what is attended to, then the pooled state.
fn flattened(PromptEmbeddings { context, pooled }: PromptEmbeddings) -> Tensor<1> {
    let context = context.flatten(0, 2);
    match pooled {
        Some(pooled) => Tensor::cat(vec![context, pooled.flatten(0, 1)], 0),
        None => context,
    }
}

/// The way back.
fn parted(tensor: Tensor<1>, text: &TextEncoders) -> PromptEmbeddings {
    let (n_tokens, context_dim) = (text.n_tokens(), text.context_dim());
    let n_context = n_tokens * context_dim;
    let pooled = text.pooled_dim().map(|dim| tensor.clone().narrow(0, n_context, dim).reshape([1, dim]));
    let context = tensor.narrow(0, 0, n_context).reshape([1, n_tokens, context_dim]);
    PromptEmbeddings { context, pooled }
}

fn blob<const D: usize>(tensor: Tensor<D>) -> Blob {
    let shape = tensor.dims().to_vec();
    Blob::new(shape, tensor.try_into_vec_as::<f32>().expect("it was cast to f32"))
}

/// A hash of what decides a network's outputs: its config and weights, and the device, since another one rounds
/// otherwise.
///
/// The weights are those in memory, not those of a file: the 815 MB of Stable Diffusion 1.5 take about a second on two
/// cores, and nothing has to be known of files and when they were changed.
fn fingerprint<M: Module>(network: &M, config: &impl Debug, device: &Device) -> [u8; 32] {
    struct Weights(blake3::Hasher);
    impl ModuleVisitor for Weights {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            self.0.update(format!("{:?} {:?}\n", tensor.dims(), tensor.dtype()).as_bytes());
            self.0.update_rayon(tensor.into_data().as_bytes());
        }
    }
    let mut weights = Weights(blake3::Hasher::new());
    weights.0.update(format!("{config:?} {device:?}\n").as_bytes());
    network.visit(&mut weights);
    *weights.0.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use burn::module::ModuleMapper;
    use burn::nn::LinearConfig;

    use super::*;

    /// Adds a little to one of the weights.
    struct Nudge {
        n_before: usize,
    }

    impl ModuleMapper for Nudge {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let is_this = self.n_before == 0;
            self.n_before = self.n_before.wrapping_sub(1);
            if is_this { param.map(|weight| weight + 1e-3) } else { param }
        }
    }

    #[test]
    fn the_fingerprint_of_a_network_is_that_of_its_config_and_every_weight() {
        let device = Device::flex();
        let network = LinearConfig::new(3, 2).init(&device);
        let mut found = vec![fingerprint(&network, &"a config", &device)];
        assert_eq!(fingerprint(&network, &"a config", &device), found[0]);
        found.push(fingerprint(&network, &"another config", &device));
        for n_before in [0, 1] {
            let nudged = network.clone().map(&mut Nudge { n_before });
            found.push(fingerprint(&nudged, &"a config", &device));
        }
        for (place, fingerprint) in found.iter().enumerate() {
            assert!(!found[..place].contains(fingerprint), "fingerprint {place}");
        }
    }
}
