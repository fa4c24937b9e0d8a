//! Choices that a library names, as values of a flag.

use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use pyrograph_train::Choice;

/// A parser that lists `names` in the help and parses them with the type's own `FromStr`, so that the file, the flag
/// and the help agree.
pub(crate) fn choice<T>(names: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

/// A parser of a choice's names.
pub(crate) fn named<T: Choice + Send + Sync>() -> impl TypedValueParser<Value = T> {
    let names = T::NAMES.iter().map(|(name, _)| *name);
    PossibleValuesParser::new(names).map(|name| {
        let found = T::NAMES.iter().find(|(known, _)| *known == name);
        found.expect("clap accepts the known names only").1
    })
}
