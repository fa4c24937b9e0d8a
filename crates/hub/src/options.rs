//! How the Hub is reached.

use std::path::PathBuf;
use std::time::Duration;

use crate::token::Token;

/// The Hub itself.
pub const ENDPOINT: &str = "https://huggingface.co";

/// Where the Hub is, who asks, and where what it gives is kept.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The address of the Hub or of a mirror, such as [`ENDPOINT`].
    pub endpoint: String,
    /// Who asks. It is sent to the endpoint alone, never to where that redirects.
    pub token: Option<Token>,
    /// The shared cache: the folder with `models--owner--name` in it.
    pub cache_dir: PathBuf,
    /// Whether anything is asked at all.
    pub network: Network,
    /// When it is given up.
    pub patience: Patience,
}

impl HubOptions {
    /// The Hub itself without a token.
    #[must_use]
    pub fn new(cache_dir: PathBuf) -> Self {
        Self {
            endpoint: ENDPOINT.to_owned(),
            token: None,
            cache_dir,
            network: Network::Online,
            patience: Patience::default(),
        }
    }
}

/// Whether anything is asked at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Ask; what cannot be reached is looked for in the cache.
    Online,
    /// Look in the cache only (`HF_HUB_OFFLINE`).
    Offline,
}

/// How long is waited, and how often it is tried again.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes. Default: 10 s, as `HF_HUB_DOWNLOAD_TIMEOUT` has it.
    pub stall: Duration,
    /// Attempts after the first one, counted anew whenever bytes arrive.
    pub n_retries: u32,
    /// The same as long as nobody has ever answered: a network that is not there seldom comes within seconds.
    pub n_reconnects: u32,
    /// Before the first further attempt; each wait is twice the one before.
    pub first_wait: Duration,
    /// The longest wait between two attempts, also if the server asks for a longer one.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            n_retries: 5,
            n_reconnects: 2,
            first_wait: Duration::from_secs(1),
            // The Hub counts requests in windows of five minutes.
            longest_wait: Duration::from_secs(300),
        }
    }
}

/// The waits between the attempts of one undertaking.
#[derive(Debug)]
pub(crate) struct Waits<'a> {
    patience: &'a Patience,
    n_made: u32,
}

impl<'a> Waits<'a> {
    pub(crate) fn new(patience: &'a Patience) -> Self {
        Self { patience, n_made: 0 }
    }

    /// How long to wait now, if it is to be tried again at all.
    pub(crate) fn next(&mut self, asked_for: Option<Duration>) -> Option<Duration> {
        let Patience { n_retries, first_wait, longest_wait, .. } = *self.patience;
        if self.n_made == n_retries {
            return None;
        }
        let usual = first_wait.saturating_mul(2_u32.saturating_pow(self.n_made));
        self.n_made += 1;
        Some(asked_for.unwrap_or(usual).min(longest_wait))
    }

    /// The same where nobody has ever answered: short and few.
    pub(crate) fn next_connection(&mut self) -> Option<Duration> {
        let Patience { n_reconnects, first_wait, .. } = *self.patience;
        if self.n_made >= n_reconnects {
            return None;
        }
        self.n_made += 1;
        Some(first_wait / 2)
    }

    /// Something arrived.
    pub(crate) fn restart(&mut self) {
        self.n_made = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_keep_to_what_the_server_asks_for_and_end() {
        let patience =
            Patience { n_retries: 3, longest_wait: Duration::from_secs(60), ..Patience::default() };
        let mut waits = Waits::new(&patience);
        assert_eq!(waits.next(None), Some(Duration::from_secs(1)));
        assert_eq!(waits.next(None), Some(Duration::from_secs(2)));
        assert_eq!(waits.next(Some(Duration::from_secs(600))), Some(Duration::from_secs(60)));
        assert_eq!(waits.next(None), None);
        waits.restart();
        assert_eq!(waits.next(Some(Duration::ZERO)), Some(Duration::ZERO));

        let mut waits = Waits::new(&patience);
        let short = Some(Duration::from_millis(500));
        assert_eq!([(); 3].map(|()| waits.next_connection()), [short, short, None]);
    }
}
