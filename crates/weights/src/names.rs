//! From a module's parameter paths to the names and shapes of the file.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor};
use thiserror::Error;

/// A two-way table of path fragments: `(ours, the file's)`.
///
/// A fragment is one or more whole dot-separated segments. `("to_out", "to_out.0")` turns `attn1.to_out.weight` into
/// `attn1.to_out.0.weight` and back. Where several fragments fit at the same place, the longest wins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Renames(&'static [(&'static str, &'static str)]);

/// A table of [`Renames`] that does not lead back to where it started.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{name}` is saved as `{saved}`, which is read back as `{read_back}`")]
pub struct RenameError {
    /// Our path.
    pub name: String,
    /// Its name in the file.
    pub saved: String,
    /// What that name is read back as.
    pub read_back: String,
}

impl Renames {
    /// The empty table: every path is a name as it stands.
    pub const NONE: Self = Self(&[]);

    /// Wraps a model crate's table of `(ours, the file's)` fragments.
    pub const fn new(pairs: &'static [(&'static str, &'static str)]) -> Self {
        Self(pairs)
    }

    /// The name in the file of our path.
    pub fn to_file(&self, ours: &str) -> String {
        replace_fragments(ours, &self.0.iter().copied())
    }

    /// Our path for a name in the file.
    pub fn to_ours(&self, file: &str) -> String {
        replace_fragments(file, &self.0.iter().map(|&(ours, theirs)| (theirs, ours)))
    }

    /// Proves that the table is a bijection on `ours`, the paths of one module: a path that comes back cannot share
    /// its name in the file with another that comes back.
    ///
    /// # Errors
    /// The first path that does not come back.
    pub fn check_round_trip<'a>(&self, ours: impl IntoIterator<Item = &'a str>) -> Result<(), RenameError> {
        for name in ours {
            let saved = self.to_file(name);
            let read_back = self.to_ours(&saved);
            if read_back != name {
                return Err(RenameError { name: name.to_owned(), saved, read_back });
            }
        }
        Ok(())
    }
}

/// Replaces whole-segment fragments from left to right, the longest first; what was replaced is not looked at again.
pub(crate) fn replace_fragments<'a, P>(name: &str, pairs: &P) -> String
where
    P: Iterator<Item = (&'a str, &'a str)> + Clone,
{
    let segments: Vec<&str> = name.split('.').collect();
    let mut replaced: Vec<&str> = Vec::with_capacity(segments.len());
    let mut rest = segments.as_slice();
    while let [first, tail @ ..] = rest {
        let longest = pairs
            .clone()
            .filter(|(from, _)| starts_with_segments(rest, from))
            .max_by_key(|(from, _)| from.split('.').count());
        match longest {
            Some((from, to)) => {
                replaced.push(to);
                rest = &rest[from.split('.').count()..];
            }
            None => {
                replaced.push(first);
                rest = tail;
            }
        }
    }
    replaced.join(".")
}

fn starts_with_segments(segments: &[&str], fragment: &str) -> bool {
    let mut segments = segments.iter();
    fragment.split('.').all(|wanted| segments.next() == Some(&wanted))
}

/// Names and shapes of a module's parameters as they stand in the file: PyTorch's names (`weight`, `bias` of a norm)
/// and PyTorch's layout (a linear weight is `[out, in]`).
///
/// Nothing is allocated: parameters that are not initialised yet stay so.
pub fn names_and_shapes<M: Module>(module: &M, renames: &Renames) -> BTreeMap<String, Vec<usize>> {
    slots(module, renames).into_iter().map(|(slot, shape)| (slot.name, shape)).collect()
}

/// Where each parameter lives in the file and its shape there, in the order in which a module is visited and mapped.
pub(crate) fn slots<M: Module>(module: &M, renames: &Renames) -> Vec<(Slot, Vec<usize>)> {
    let mut visitor = SlotVisitor { walk: Walk::new(*renames), slots: Vec::new() };
    module.visit(&mut visitor);
    visitor.slots
}

/// Where one parameter lives in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) name: String,
    /// Burn keeps a linear weight as `[in, out]`, PyTorch as `[out, in]`.
    pub(crate) transposed: bool,
}

impl Slot {
    /// Our shape in the file's layout, or the file's in ours.
    pub(crate) fn other_layout(&self, mut shape: Vec<usize>) -> Vec<usize> {
        if self.transposed {
            shape.reverse();
        }
        shape
    }
}

/// The position in a module during a visit or a map.
#[derive(Debug)]
pub(crate) struct Walk {
    renames: Renames,
    /// Field name, and what holds the field (`Struct:Linear`, `Vec`).
    path: Vec<(String, String)>,
}

impl Walk {
    pub(crate) fn new(renames: Renames) -> Self {
        Self { renames, path: Vec::new() }
    }

    pub(crate) fn enter(&mut self, field: &str, container: &str) {
        self.path.push((field.to_owned(), container.to_owned()));
    }

    pub(crate) fn exit(&mut self) {
        self.path.pop();
    }

    /// The file's slot for the parameter at the present position.
    pub(crate) fn slot(&self) -> Slot {
        let mut segments: Vec<&str> = self.path.iter().map(|(field, _)| field.as_str()).collect();
        let container = self.path.last().map_or("", |(_, container)| container.as_str());
        let mut transposed = false;
        if let Some(parameter) = segments.last_mut() {
            match (container, *parameter) {
                ("Struct:GroupNorm" | "Struct:LayerNorm", "gamma") => *parameter = "weight",
                ("Struct:GroupNorm" | "Struct:LayerNorm", "beta") => *parameter = "bias",
                ("Struct:Linear", "weight") => transposed = true,
                _ => {}
            }
        }
        Slot { name: self.renames.to_file(&segments.join(".")), transposed }
    }
}

struct SlotVisitor {
    walk: Walk,
    slots: Vec<(Slot, Vec<usize>)>,
}

impl SlotVisitor {
    fn record(&mut self, shape: Vec<usize>) {
        let slot = self.walk.slot();
        let shape = slot.other_layout(shape);
        self.slots.push((slot, shape));
    }
}

impl ModuleVisitor for SlotVisitor {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.walk.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.walk.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.record(param.lazy_shape().to_vec());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.record(param.lazy_shape().to_vec());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.record(param.lazy_shape().to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENAMES: Renames =
        Renames::new(&[("to_out", "to_out.0"), ("ff.proj_in", "ff.net.0.proj"), ("ff.proj_out", "ff.net.2")]);

    #[test]
    fn renames_apply_to_whole_segments_and_lead_back() {
        for (ours, file) in [
            ("mid.attn1.to_out.weight", "mid.attn1.to_out.0.weight"),
            ("blocks.0.ff.proj_in.bias", "blocks.0.ff.net.0.proj.bias"),
            ("blocks.0.ff.proj_out.bias", "blocks.0.ff.net.2.bias"),
            ("blocks.0.proj_in.bias", "blocks.0.proj_in.bias"),
            ("not_to_out.weight", "not_to_out.weight"),
        ] {
            assert_eq!(RENAMES.to_file(ours), file);
            assert_eq!(RENAMES.to_ours(file), ours);
        }
    }

    #[test]
    fn the_longest_fragment_wins() {
        let renames = Renames::new(&[("a", "short"), ("a.b", "long")]);
        assert_eq!(renames.to_file("a.b.c"), "long.c");
        assert_eq!(renames.to_file("a.c"), "short.c");
    }

    #[test]
    fn a_table_that_is_no_bijection_is_refused() {
        let merging = Renames::new(&[("a", "c"), ("b", "c")]);
        assert!(merging.check_round_trip(["a.w", "b.w"]).is_err());
        assert_eq!(RENAMES.check_round_trip(["x.to_out.weight", "x.ff.proj_in.weight"]), Ok(()));
        // This path already is a name of the file, so reading it back goes a step too far.
        let clash = RENAMES.check_round_trip(["x.ff.net.2.weight"]).unwrap_err();
        assert_eq!(
            clash.to_string(),
            "`x.ff.net.2.weight` is saved as `x.ff.net.2.weight`, which is read back as `x.ff.proj_out.weight`"
        );
    }
}
