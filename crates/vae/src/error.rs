//! What can be wrong with an autoencoder's config.

/// A `config.json` that does not describe an autoencoder this crate can build.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A feature that is not implemented, or a model of another kind.
    #[error("`{key}` is {found}, but only {supported} is supported")]
    Unsupported {
        /// Key of `config.json`.
        key: &'static str,
        /// Its value, as JSON.
        found: String,
        /// The value or values that work.
        supported: &'static str,
    },
    /// Two lists that must go together have different lengths.
    #[error("`{key}` has {found} entries, but `block_out_channels` has {expected}")]
    UnequalLengths {
        /// Key of `config.json`.
        key: &'static str,
        /// Number of entries in `block_out_channels`.
        expected: usize,
        /// Number of entries under the key.
        found: usize,
    },
    /// The number of groups does not divide a number of channels.
    #[error("`norm_num_groups` is {groups}, which does not divide {channels}, one of `block_out_channels`")]
    GroupsDoNotDivide {
        /// `norm_num_groups`.
        groups: usize,
        /// The channel count it must divide.
        channels: usize,
    },
    /// A list that needs at least one entry is empty, or a count is zero.
    #[error("`{key}` must not be {found}")]
    Empty {
        /// Key of `config.json`.
        key: &'static str,
        /// `empty` or `zero`.
        found: &'static str,
    },
    /// A number or the length of a list is beyond every model's: the file is damaged, or made to exhaust the memory.
    #[error("`{key}` is {found}, more than {max}")]
    TooLarge {
        /// Key of `config.json`.
        key: &'static str,
        /// The number, or the length.
        found: usize,
        /// The largest one allowed.
        max: usize,
    },
    /// A file without a config lacks a tensor from which the config would be read.
    #[error("there is no convolution `{name}`")]
    NoTensor {
        /// The tensor's name.
        name: String,
    },
}
