//! Models and data sets of the Hugging Face Hub: only the needed files, checked, in the cache that all programs share; and
//! what was trained back to it.
//!
//! ```no_run
//! use pyrograph_hub::{Hub, HubOptions, Pickles, RepoKind, RepoName, Wanted};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let hub = Hub::new(HubOptions::new("/home/me/.cache/huggingface/hub".into()))?;
//! let name = RepoName::parse("stable-diffusion-v1-5/stable-diffusion-v1-5").ok_or("not a name")?;
//! let wanted = Wanted::Pipeline { variant: None, without: Vec::new(), pickles: Pickles::Refused };
//! let folder = hub.fetch(RepoKind::Model, &name, None, &wanted, &mut |_| ())?;
//! # Ok(())
//! # }
//! ```

mod cache;
mod card;
mod error;
mod fetch;
mod hash;
mod http;
mod listing;
mod name;
mod notice;
mod options;
mod push;
mod select;
mod token;

pub use crate::cache::Cached;
pub use crate::card::{CardFacts, CardFamily, CardPicture, ModelCard};
pub use crate::error::HubError;
pub use crate::name::{RepoKind, RepoName};
pub use crate::notice::Notice;
pub use crate::options::{ENDPOINT, HubOptions, Network, Patience};
pub use crate::push::{Push, PushFile, Visibility};
pub use crate::select::{Pickles, Wanted};
pub use crate::token::Token;

use crate::http::Http;

/// Who is told what happens.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(Notice<'_>);

/// A client of the Hub.
#[derive(Debug)]
pub struct Hub {
    options: HubOptions,
    http: Http,
}

impl Hub {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// [`HubError::BadEndpoint`].
    pub fn new(options: HubOptions) -> Result<Self, HubError> {
        let http = Http::new(&options)?;
        Ok(Self { options, http })
    }
}
