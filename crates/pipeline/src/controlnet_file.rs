//! A ControlNet in a file without a config, with diffusers' names or the original ones.

use std::path::{Path, PathBuf};

use burn::prelude::*;
use pyrograph_unet::{ControlNet, ControlNetConfig, Naming};
use pyrograph_weights::{ModelKind, Part, Pickles, WeightsError, inspect, read_header};

use crate::bundle::weights;
use crate::configs::controlnet_config;
use crate::error::PipelineError;
use crate::single_file::{PartFile, shapes};

/// A ControlNet's file of which only the header has been read.
#[derive(Debug)]
pub(crate) struct ControlNetFile {
    path: PathBuf,
    pickles: Pickles,
    pub(crate) prefix: &'static str,
    pub(crate) naming: Naming,
    pub(crate) config: ControlNetConfig,
}

impl ControlNetFile {
    /// Tells by the names how the file spells them. A `config.json` of a ControlNet beside it is heeded. In the file there may be a
    /// whole Stable Diffusion, too, as in the first published ones.
    ///
    /// Source: diffusers 0.42 `convert_controlnet_checkpoint`.
    pub(crate) fn open(path: &Path, pickles: Pickles) -> Result<Self, PipelineError> {
        let failed = weights("ControlNet");
        let header = read_header(path, None, pickles).map_err(&failed)?;
        let spellings = [
            ("controlnet_cond_embedding.conv_in.weight", "", Naming::Diffusers),
            ("control_model.input_hint_block.0.weight", "control_model.", Naming::Original),
            ("input_hint_block.0.weight", "", Naming::Original),
        ];
        let spelling = spellings.into_iter().find(|(name, ..)| header.shapes.contains_key(*name));
        let found = inspect(path, pickles).map_err(&failed)?;
        // Others embed their hints alike.
        let is_other = matches!(found.kind, ModelKind::ControlNetUnion | ModelKind::ControlNetXs);
        let Some((_, prefix, naming)) = spelling.filter(|_| !is_other) else {
            let (expected, found) = ("a ControlNet".to_owned(), found.in_words());
            return Err(failed(WeightsError::WrongKind { path: path.to_owned(), expected, found }));
        };
        let shape_of = |name: &str| header.shapes.get(&format!("{prefix}{name}")).map(Vec::as_slice);
        let beside =
            path.parent().filter(|dir| naming == Naming::Diffusers && dir.join("config.json").is_file());
        let config = match beside.map(|dir| controlnet_config(dir, pickles)) {
            Some(Ok(config)) => config,
            // That of another model, or none.
            _ => ControlNetConfig::from_shapes(naming, &shape_of).map_err(shapes("ControlNet"))?,
        };
        Ok(Self { path: path.to_owned(), pickles, prefix, naming, config })
    }

    pub(crate) fn load(
        self,
        names_only: bool,
        device: &Device,
    ) -> Result<(ControlNet, ControlNetConfig), PipelineError> {
        let file = PartFile {
            path: &self.path,
            pickles: self.pickles,
            prefix: self.prefix,
            renames: pyrograph_unet::RENAMES,
            names_only,
        };
        let names = self.config.original_names();
        let controlnet = file
            .load(self.config.init(device), &[], |name| {
                let name = match self.naming {
                    Naming::Diffusers => name.to_owned(),
                    Naming::Original => names.of(name)?,
                };
                Some((name, Part::Whole))
            })
            .map_err(weights("ControlNet"))?;
        Ok((controlnet, self.config))
    }
}
