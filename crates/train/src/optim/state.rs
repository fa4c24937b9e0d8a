//! What an optimizer remembers of one parameter.

use std::collections::BTreeMap;

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::{DType, TensorData};

use crate::TrainError;

/// Tensors by name; none before the first gradient.
#[derive(Debug, Clone, Default)]
pub(super) struct State(BTreeMap<&'static str, Kept>);

/// One of them.
#[derive(Debug, Clone)]
enum Kept {
    Floats(Tensor<1>),
    Codes(Tensor<1, Int>),
}

impl State {
    /// Takes a tensor out, so that nobody else holds it; one that is not there is made.
    pub(super) fn floats(&mut self, name: &'static str, absent: impl FnOnce() -> Tensor<1>) -> Tensor<1> {
        match self.0.remove(name) {
            Some(Kept::Floats(floats)) => floats,
            _ => absent(),
        }
    }

    /// The same for codes.
    pub(super) fn codes(&mut self, name: &'static str) -> Option<Tensor<1, Int>> {
        match self.0.remove(name) {
            Some(Kept::Codes(codes)) => Some(codes),
            _ => None,
        }
    }

    pub(super) fn set_floats(&mut self, name: &'static str, floats: Tensor<1>) {
        self.0.insert(name, Kept::Floats(floats));
    }

    pub(super) fn set_codes(&mut self, name: &'static str, codes: Tensor<1, Int>) {
        self.0.insert(name, Kept::Codes(codes));
    }

    /// Adds the tensors to those of a file.
    pub(super) fn save(&self, path: &str, saved: &mut BTreeMap<String, TensorData>) {
        for (name, kept) in &self.0 {
            let data = match kept {
                Kept::Floats(floats) => floats.to_data(),
                Kept::Codes(codes) => codes.to_data(),
            };
            saved.insert(format!("{name}.{path}"), data);
        }
    }

    /// Takes the tensors out of those of a file: all of them or none.
    pub(super) fn take(
        path: &str,
        layout: &[(&'static str, usize)],
        saved: &mut BTreeMap<String, TensorData>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let mut state = BTreeMap::new();
        for &(name, size) in layout {
            let tensor = format!("{name}.{path}");
            let Some(data) = saved.remove(&tensor) else { continue };
            if data.shape().to_vec() != [size] {
                return Err(TrainError::OptimizerState { tensor, problem: "has the wrong size" });
            }
            let kept = match data.dtype() {
                DType::U8 => Kept::Codes(Tensor::from_data(data, (device, DType::U8))),
                _ => Kept::Floats(Tensor::from_data(data, device)),
            };
            state.insert(name, kept);
        }
        if state.is_empty() || state.len() == layout.len() {
            return Ok(Self(state));
        }
        Err(TrainError::OptimizerState { tensor: path.to_owned(), problem: "has only a part of its state" })
    }
}

/// The path and the shape of each float parameter, in visiting order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shapes {
    stack: Vec<String>,
    found: Vec<(String, Vec<usize>)>,
}

impl Shapes {
    pub(crate) fn of<M: Module>(module: &M) -> Self {
        let mut shapes = Self::default();
        module.visit(&mut shapes);
        shapes
    }

    /// Those whose path begins so.
    pub(crate) fn beginning_with(&self, starts: &[&str]) -> Self {
        let is_one = |(path, _): &&(String, Vec<usize>)| starts.iter().any(|start| path.starts_with(start));
        Self { stack: Vec::new(), found: self.found.iter().filter(is_one).cloned().collect() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.found.iter().map(|(path, shape)| (path.as_str(), shape.as_slice()))
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(path, _)| path)
    }
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.stack.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.stack.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push((self.stack.join("."), param.lazy_shape().to_vec()));
    }
}
